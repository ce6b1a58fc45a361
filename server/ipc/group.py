"""Messages between a worker and the other processes of its device group, which generate its chunks with it.

Every order is answered by one reply. A ``Next`` is followed by one word before each of the model's passes, so that the
worker can abandon the chunk in all processes at the same pass; a ``Restore`` is followed by the snapshot's bytes.
"""

from __future__ import annotations

import socket
from typing import TypeVar

import msgspec

from server.ipc.messages import HEADER, CacheChoice, Camera, Configure, Message, Past, frame, frame_length

GO, LEAVE = b"+", b"-"  # the words
M = TypeVar("M", bound=Message)


class Load(Message, frozen=True, tag="load"):
    """The first order: load the transformer that ``configure`` names, on ``device``."""

    configure: Configure
    device: str
    rank: int
    size: int


class Meet(Message, frozen=True, tag="meet"):
    """Join the others at the file ``place``; an exchange that takes longer than ``patience`` seconds fails."""

    place: str
    patience: float


class Begin(Message, frozen=True, tag="begin"):
    """Open stream number ``stream``."""

    stream: int
    prompt: str
    seed: int
    cache: CacheChoice


class Restore(Message, frozen=True, tag="restore"):
    """Open stream number ``stream`` from the snapshot of ``size`` bytes that follows."""

    stream: int
    size: int


class BeginWith(Message, frozen=True, tag="begin_with"):
    """Start a new stream with the picture ``image``, PNG of the model's size."""

    stream: int
    image: bytes


class Recall(Message, frozen=True, tag="recall"):
    """Restore a lost stream's state in a new stream."""

    stream: int
    past: Past


class Prompt(Message, frozen=True, tag="prompt"):
    """The prompt from the next chunk on."""

    stream: int
    text: str


class Steer(Message, frozen=True, tag="steer"):
    """A camera command from the next chunk on."""

    stream: int
    camera: Camera


class Next(Message, frozen=True, tag="next"):
    """Generate the next chunk."""

    stream: int


class Snapshot(Message, frozen=True, tag="snapshot"):
    """Take part in the snapshot of a stream."""

    stream: int


class Forget(Message, frozen=True, tag="forget"):
    """Drop these streams, and free memory that is not in use."""

    streams: list[int]


class Done(Message, frozen=True, tag="done"):
    """The reply to an order. ``error`` is the class of the exception that ended it, which all processes must share, and
    ``message`` its text. ``free_bytes`` is the device's free memory."""

    error: str | None = None
    message: str = ""
    free_bytes: int = 0
    digest: str = ""  # of the weights, after Load


Order = Load | Meet | Begin | Restore | BeginWith | Recall | Prompt | Steer | Next | Snapshot | Forget

_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_replies: msgspec.msgpack.Decoder[Done] = msgspec.msgpack.Decoder(Done)


class LinkClosed(Exception):
    """The process at the other end has ended, or did not answer in time."""


class Link:
    """One end of the connection between a worker and another process of its group."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._file = sock.makefile("rb")

    def send(self, message: Message, more: bytes = b"") -> None:
        """Send a message, and what follows it. Raises LinkClosed."""
        self.send_bytes(frame(message) + more)

    def send_bytes(self, data: bytes) -> None:
        """Send words, or what follows a message. Raises LinkClosed."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def read(self, size: int) -> bytes:
        """Exactly so many bytes. Raises LinkClosed."""
        try:
            data = self._file.read(size)
        except OSError as error:
            raise LinkClosed(str(error)) from error
        if len(data) < size:
            raise LinkClosed("the other process has ended")
        return data

    def close(self) -> None:
        """Close this end."""
        self._file.close()
        self._socket.close()

    def order(self) -> Order:
        """The next order. Raises LinkClosed."""
        return _orders.decode(self.read(frame_length(self.read(HEADER.size))))

    def reply(self, within: float | None) -> Done:
        """The reply to an order. Raises LinkClosed."""
        self._socket.settimeout(within)
        try:
            return _replies.decode(self.read(frame_length(self.read(HEADER.size))))
        finally:
            self._socket.settimeout(None)
