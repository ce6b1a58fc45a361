"""The states of an engine, a live session and a job, as metrics and routes name them."""

from enum import Enum


class EngineState(Enum):
    """READY while any worker takes sessions; FAILED is final until somebody changes the configuration."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class WorkerState(Enum):
    """Only READY takes sessions. FAILED is final; a DRAINING worker keeps its sessions until others have room for
    them, a DRAINED one has ended, and comes back when it is asked to."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    DRAINED = "drained"
    FAILED = "failed"
    STOPPED = "stopped"


class SessionStatus(Enum):
    """Where a session stands, as /v1/sessions tells it."""

    WAITING = "waiting"  # for a worker
    STREAMING = "streaming"
    PAUSED = "paused"
    SUSPENDED = "suspended"  # without its viewer, on the device
    PARKED = "parked"  # on disk
    ENDED = "ended"


class JobState(Enum):
    """QUEUED -> RUNNING -> COMPLETED or FAILED; a lost RUNNING job is taken over or goes back to QUEUED.

    DELETED is a tombstone: invisible, kept for a while so that whatever still works on it is refused.
    """

    QUEUED = "queued"
    RUNNING = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    DELETED = "deleted"
