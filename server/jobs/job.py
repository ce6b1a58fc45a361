"""The job types: the accepted order, its state and results. Plain data; no database, files or sockets."""

from __future__ import annotations

import msgspec

from server.config import Settings
from server.ipc.messages import CacheChoice, Interact
from server.states import JobState

DISK_FULL = 75  # exit status of the assembly process: no space left (EX_TEMPFAIL)
UNFINISHED = (JobState.QUEUED, JobState.RUNNING)
VISIBLE = tuple(state for state in JobState if state is not JobState.DELETED)


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """Another model's video that precedes the job's own: its number of pictures at this model's rate, and a warning."""

    pictures: int
    said: str


def carried_pictures(pictures: int, fps: int, new_fps: int) -> int:
    """Number of pictures after converting a video of ``pictures`` from ``fps`` to ``new_fps``."""
    return max(1, pictures * new_fps // fps)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to generate. ``pictures`` is the total length; an extension starts with ``given_chunks`` existing chunks.

    With ``carried``, the model's own part starts with the last carried picture as ``image``. Its first chunk, a still
    of that picture, is not shown.
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
    image: bytes = b""  # first picture of the video, PNG of the model's size
    carried: Carried | None = None
    request: str = ""  # id of the HTTP request
    traceparent: str = ""  # W3C trace context: parent span of the work, on any server
    tracestate: str = ""  # what the caller's tracing system added to it
    changes: list[Interact] = []  # prompt and camera changes, each at its chunk

    @property
    def context(self) -> dict[str, str]:
        """The trace context, as headers."""
        return {"traceparent": self.traceparent, **({"tracestate": self.tracestate} if self.tracestate else {})}

    @property
    def seconds(self) -> float:
        return self.pictures / self.fps

    @property
    def earlier(self) -> int:
        """Number of carried pictures before its own."""
        return self.carried.pictures if self.carried else 0

    def prompt_at(self, chunk: int) -> str:
        """The prompt with which a worker starts at this chunk."""
        due = [change for change in self.changes if change.prompt is not None and change.at_chunk < chunk]
        return max(due, key=lambda change: change.at_chunk).prompt or "" if due else self.prompt

    def changes_from(self, chunk: int) -> list[Interact]:
        """The changes that take effect at this chunk or later."""
        return [change for change in self.changes if change.at_chunk >= chunk]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """File names of a finished job; ``nbytes`` is the size of all its files, chunks included."""

    video: str
    thumbnail: str
    spritesheet: str
    nbytes: int
    loop: str | None = None  # None for videos of earlier versions


class StoredChunk(msgspec.Struct, frozen=True, kw_only=True):
    """File names of a finished chunk: ``media``, and ``past``, from which another worker can continue."""

    number: int
    media: str
    past: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the store. Times are wall-clock seconds, used only for display and retention.

    ``fence`` increases with every claim, so that an earlier lease holder can no longer write; ``beat`` increases with
    every heartbeat. ``failures`` counts losses in a row without a finished chunk in between.
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
    """The right to work on a job, valid while the job has this fence."""

    job_id: str
    fence: int


def carried_name(job_id: str) -> str:
    """File name of a job's carried pictures."""
    return f"{job_id}/carried.m4s"


class CarryOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Input of server.jobs.carry: names of the source video and the result, and the result's format."""

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
    """Input of server.jobs.assemble: the video's files, the files kept with it, and the prefix of result file names."""

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
