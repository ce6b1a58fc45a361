"""What a job is: the order as it was accepted, and where it stands. Plain data; no database, no files, no sockets."""

from __future__ import annotations

import msgspec

from server.config import Settings
from server.ipc.messages import CacheChoice, Interact
from server.states import JobState

DISK_FULL = 75  # exit status of the assembly process: no space left (EX_TEMPFAIL)
UNFINISHED = (JobState.QUEUED, JobState.RUNNING)
VISIBLE = tuple(state for state in JobState if state is not JobState.DELETED)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to make. ``pictures`` is the length of the whole video; the first ``given_chunks`` of an extension exist."""

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
    request: str = ""  # id of the request that ordered it
    traceparent: str = ""  # W3C: the span below which the work is traced, wherever it is done
    changes: list[Interact] = []  # of words and camera, each at its chunk

    @property
    def seconds(self) -> float:
        return self.pictures / self.fps

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


class AssemblyOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which chunks make the video, what else is kept with it, and the prefix of its files' names."""

    files: str | None
    data_dir: str
    media: list[str]
    past: list[str]
    pictures: int
    fps: int
    title: str
    prefix: str

    @classmethod
    def of(cls, job: Job, lease: Lease, chunks: list[StoredChunk], settings: Settings) -> AssemblyOrder:
        return cls(
            files=settings.videos,
            data_dir=str(settings.data_dir.resolve()),
            media=[chunk.media for chunk in chunks],
            past=[chunk.past for chunk in chunks],
            pictures=job.order.pictures,
            fps=job.order.fps,
            title=job.id,
            prefix=f"{job.id}/{lease.fence}-",
        )
