"""A job's chunks: their number, and the stored state from which another worker can continue."""

from __future__ import annotations

import msgspec

from model.camera import CameraState, camera_from_prompt
from model.spec import ModelSpec
from server.ipc.messages import CameraPosition, Fragment, Past, PastChunk
from server.jobs.files import Files
from server.jobs.job import Job, Lease, Order, StoredChunk
from server.live.resume_point import ResumePoint


class ChunkState(msgspec.Struct, frozen=True, kw_only=True):
    """The file stored with each chunk: its latents and the state of the stream after it."""

    past: PastChunk
    pictures: int
    camera: CameraPosition
    remembered: list[int]  # indices of chunks that still had tokens in the cache

    @classmethod
    def after(cls, fragment: Fragment, resume_point: ResumePoint) -> ChunkState:
        """The state after ``fragment``, which ``resume_point`` must already contain."""
        past = resume_point.past()
        assert past is not None
        remembered = [chunk.index for chunk in past.chunks]
        return cls(past=fragment.past, pictures=past.pictures, camera=past.camera, remembered=remembered)


def chunks_of(order: Order, spec: ModelSpec) -> int:
    """Number of chunks needed for the order's own pictures."""
    count, pictures = (1, order.earlier) if order.carried else (0, 0)
    while pictures < order.pictures:
        pictures += spec.pictures_in_chunk(count)
        count += 1
    return count


def pictures_in(chunks: int, spec: ModelSpec) -> int:
    """Number of pictures in the first ``chunks`` chunks."""
    return sum(spec.pictures_in_chunk(index) for index in range(chunks))


def names_of(lease: Lease, number: int) -> StoredChunk:
    """File names of a chunk. They contain the fence, so that an earlier lease holder overwrites nothing."""
    name = f"{lease.job_id}/{number:06d}-{lease.fence}"
    return StoredChunk(number=number, media=f"{name}.m4s", past=f"{name}.past")


def read_past(files: Files, job: Job, chunks: list[StoredChunk], spec: ModelSpec) -> Past:
    """The state from which a worker continues after the last of ``chunks``. Raises FilesUnavailable."""

    def read(number: int) -> ChunkState:
        return msgspec.msgpack.decode(files.read(chunks[number].past), type=ChunkState)

    last = read(len(chunks) - 1)
    camera = last.camera
    if job.chunks == job.order.given_chunks and spec.camera:  # an extension's own prompt starts here
        if control := camera_from_prompt(job.order.prompt):
            state = CameraState.of(camera).steered(control, spec.view_width)
            camera = state.numbers
    remembered = [read(number).past for number in last.remembered]
    return Past(next_index=len(chunks), pictures=last.pictures, camera=camera, chunks=remembered)
