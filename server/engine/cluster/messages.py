"""What crosses between a front and the actor that hosts a worker: structs as msgpack, never pickled objects of ours.

Most are the messages of server.ipc; here are those that one front, alone with its worker, has no need of.
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
Stores = dict[str, tuple[str, str]]  # by the name of the setting: a store's id, and where it is


class Hello(Message, frozen=True, tag="hello"):
    """A front presents itself: its id, its version, where its sessions and jobs are kept."""

    front: str
    version: str
    stores: Stores


class About(Message, frozen=True, tag="about"):
    """The host's answer: its version, the Assignment of its worker, and ``stores`` of the fronts that it serves."""

    version: str
    assignment: msgspec.Raw
    stores: Stores | None


class Admit(Message, frozen=True, tag="admit"):
    """Open a session; the ``displaced`` background sessions leave first. Answered by Opened or Refused."""

    order: Open
    displaced: list[str]


class Move(Message, frozen=True, tag="move"):
    """The session goes on elsewhere, behind the chunk in hand."""

    session: str


class Drain(Message, frozen=True, tag="drain"):
    """Take no more sessions; the worker's process ends behind the last."""


class Undrain(Message, frozen=True, tag="undrain"):
    """Take sessions again."""


class Refused(Message, frozen=True, tag="refused"):
    """Why a session was not opened, as a PafuError says it."""

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
)  # by a front
Said = Opened | Refused | Fragment | Rejected | Ended  # to a front, of one of its sessions


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How the worker stands, with all that it holds for whatever front."""

    status: WorkerStatus
    most: int
    held: dict[str, Reservation]
    beat: Beat | None
    last_death: str  # of its process, one of server.telemetry.metrics.DEATHS


class Heard(msgspec.Struct, frozen=True):
    """What was said to one front since it last asked, in order, and how things stand behind that."""

    said: list[Said]
    report: Report


def encode(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises msgspec.MsgspecError when the other side speaks another version."""
    return msgspec.msgpack.decode(data, type=kind)
