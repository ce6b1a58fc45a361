"""What a job is: the order as it was accepted, and where it stands. Plain data; no database, no files, no sockets."""

from __future__ import annotations

import msgspec

from server.config import Settings
from server.ipc.messages import CacheChoice, Interact
from server.states import JobState

DISK_FULL = 75  # exit status of the assembly process: no space left (EX_TEMPFAIL)
UNFINISHED = (JobState.QUEUED, JobState.RUNNING)
VISIBLE = tuple(state for state in JobState if state is not JobState.DELETED)


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """Another model's video that comes first: its pictures at this model's size and rate, and a warning for callers."""

    pictures: int
    said: str


def carried_pictures(pictures: int, fps: int, new_fps: int) -> int:
    """How many a video of ``pictures`` at ``fps`` has at another rate."""
    return max(1, pictures * new_fps // fps)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to make. ``pictures`` is the length of the whole video; the first ``given_chunks`` of an extension exist.

    With ``carried`` the model's own part begins with the last carried picture as ``image``. Its first chunk, that
    picture at rest, is not shown.
    """

    model: str
    prompt: str
    seed: int
    width: int
    height: int
    fps: int
    pictures: int
    cache: CacheChoice
    given_chunks: int = 0
    image: bytes = b""  # PNG of the model's size that the video begins with
    carried: Carried | None = None
    request: str = ""  # id of the request that ordered it
    traceparent: str = ""  # W3C: the span below which the work is traced, wherever it is done
    changes: list[Interact] = []  # of words and camera, each at its chunk

    @property
    def seconds(self) -> float:
        return self.pictures / self.fps

    @property
    def earlier(self) -> int:
        """Pictures of other models before its own."""
        return self.carried.pictures if self.carried else 0

    def prompt_at(self, chunk: int) -> str:
        """The words that a worker begins with which makes this chunk first."""
        due = [change for change in self.changes if change.prompt is not None and change.at_chunk < chunk]
        return max(due, key=lambda change: change.at_chunk).prompt or "" if due else self.prompt

    def changes_from(self, chunk: int) -> list[Interact]:
        """Those that this chunk or a later one shows first."""
        return [change for change in self.changes if change.at_chunk >= chunk]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Names of a finished job's files; ``nbytes`` counts all that is kept of it, its chunks included."""

    video: str
    thumbnail: str
    spritesheet: str
    nbytes: int
    loop: str | None = None  # videos of earlier versions have none


class StoredChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A finished chunk: names of its files. ``past`` holds what another worker needs to go on after it."""

    number: int
    media: str
    past: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the store. Times are seconds of the wall clock and only for people: nothing is decided by them but
    retention.

    ``fence`` grows with every claim, so that a holder whose lease was taken over can no longer write; ``beat``
    grows with every heartbeat. ``failures`` are losses in a row without a finished chunk between them.
    """

    id: str
    number: int
    caller: str
    state: JobState
    order: Order
    remixed_from: str | None
    fence: int
    beat: int
    failures: int
    chunks: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    work_seconds: float
    error_code: str | None
    error_message: str | None
    results: Results | None


class Lease(msgspec.Struct, frozen=True):
    """The right to work on a job: valid only while the store has the same fence."""

    job_id: str
    fence: int


def carried_name(job_id: str) -> str:
    """The file of the pictures that come before a job's own."""
    return f"{job_id}/carried.m4s"


class CarryOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Names of the video and of the file to make; what that is to have."""

    files: str | None
    data_dir: str
    video: str
    made: str
    pictures: int
    width: int
    height: int
    fps: int
    old_fps: int

    @classmethod
    def of(cls, source: Job, job_id: str, order: Order, settings: Settings) -> CarryOrder:
        assert source.results is not None
        return cls(
            files=settings.videos,
            data_dir=str(settings.data_dir.resolve()),
            video=source.results.video,
            made=carried_name(job_id),
            pictures=order.earlier,
            width=order.width,
            height=order.height,
            fps=order.fps,
            old_fps=source.order.fps,
        )


class AssemblyOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which files make the video, which are kept beside it, and the prefix of its own files' names."""

    files: str | None
    data_dir: str
    media: list[str]
    beside: list[str]
    pictures: int
    fps: int
    title: str
    prefix: str

    @classmethod
    def of(cls, job: Job, lease: Lease, chunks: list[StoredChunk], settings: Settings) -> AssemblyOrder:
        media = [chunk.media for chunk in chunks]
        unseen = media[:1] if job.order.carried else []
        return cls(
            files=settings.videos,
            data_dir=str(settings.data_dir.resolve()),
            media=[carried_name(job.id), *media[1:]] if unseen else media,
            beside=[*unseen, *(chunk.past for chunk in chunks)],
            pictures=job.order.pictures,
            fps=job.order.fps,
            title=job.id,
            prefix=f"{job.id}/{lease.fence}-",
        )
