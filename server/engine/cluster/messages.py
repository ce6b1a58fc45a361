"""Messages between a front and the actor that hosts a worker: msgpack structs, never pickled objects.

They extend the messages of server.ipc with those that only a cluster needs.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from server.engine.admission import Reservation
from server.engine.interface import WorkerStatus
from server.errors import PafuError
from server.ipc.messages import (
    Beat,
    Close,
    Delivered,
    Ended,
    Finish,
    Fragment,
    Interact,
    Jpeg,
    Message,
    Open,
    Opened,
    Park,
    Pause,
    Playhead,
    Rejected,
    Resume,
)

T = TypeVar("T")
Stores = dict[str, tuple[str, str]]  # setting name -> (id of the store, its location)


class Hello(Message, frozen=True, tag="hello"):
    """A front introduces itself: its id, its version, its stores for sessions and jobs."""

    front: str
    version: str
    stores: Stores


class About(Message, frozen=True, tag="about"):
    """The host's reply: its version, its worker's Assignment, and the stores of the fronts that it serves."""

    version: str
    assignment: msgspec.Raw
    stores: Stores | None


class Admit(Message, frozen=True, tag="admit"):
    """Open a session after closing the ``displaced`` background sessions. The reply is Opened or Refused."""

    order: Open
    displaced: list[str]


class Move(Message, frozen=True, tag="move"):
    """Release the session for another worker after its current chunk."""

    session: str


class Drain(Message, frozen=True, tag="drain"):
    """Accept no more sessions; the worker process stops after the last one."""


class Undrain(Message, frozen=True, tag="undrain"):
    """Accept sessions again."""


class Refused(Message, frozen=True, tag="refused"):
    """Why a session was not opened: the fields of a PafuError."""

    session: str
    code: str
    text: str
    param: str | None
    retry_after: float | None

    @classmethod
    def of(cls, session: str, error: PafuError) -> Refused:
        code = error.kind.code
        return cls(session=session, code=code, text=error.message, param=error.param, retry_after=error.retry_after)

    def error(self) -> PafuError:
        return PafuError(self.code, self.text, self.param, self.retry_after)


Told = (
    Admit | Move | Drain | Undrain | Interact | Playhead | Delivered | Pause | Resume | Park | Jpeg | Finish | Close
)  # from a front to the host
Said = Opened | Refused | Fragment | Rejected | Ended  # from the host to a front, about one of its sessions


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's status and its reservations for all fronts."""

    status: WorkerStatus
    most: int
    held: dict[str, Reservation]
    beat: Beat | None
    last_death: str  # one of server.telemetry.metrics.DEATHS


class Heard(msgspec.Struct, frozen=True):
    """Messages for one front since its last call, in order, and the worker's report after them."""

    said: list[Said]
    report: Report


def encode(value: object) -> bytes:
    """The message as msgpack."""
    return msgspec.msgpack.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises msgspec.MsgspecError if the other side uses an incompatible version."""
    return msgspec.msgpack.decode(data, type=kind)
