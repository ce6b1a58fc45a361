"""States of engines, workers, live sessions and jobs, under the names that metrics and routes use."""

from enum import Enum


class EngineState(Enum):
    """READY while any worker accepts sessions; FAILED is final until the configuration changes."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class WorkerState(Enum):
    """Only READY accepts sessions; FAILED is final.

    A DRAINING worker keeps its sessions until other workers have room for them. A DRAINED worker has stopped and
    restarts on request.
    """

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    DRAINED = "drained"
    FAILED = "failed"
    STOPPED = "stopped"


class SessionStatus(Enum):
    """The status of a live session in /v1/sessions."""

    WAITING = "waiting"  # for a worker
    STREAMING = "streaming"
    PAUSED = "paused"
    SUSPENDED = "suspended"  # no viewer; still on the device
    PARKED = "parked"  # on disk
    ENDED = "ended"


class JobState(Enum):
    """QUEUED -> RUNNING -> COMPLETED or FAILED. A RUNNING job whose server is lost is taken over or requeued.

    DELETED is an invisible tombstone, kept for a while so that writes from a worker still on the job are refused.
    """

    QUEUED = "queued"
    RUNNING = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    DELETED = "deleted"
