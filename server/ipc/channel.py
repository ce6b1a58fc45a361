"""The worker's end of the socket to the front: blocking writes, reads with a timeout."""

from __future__ import annotations

import select
import socket

from server.ipc.messages import HEADER, FrontMessage, Message, decode_front, frame, frame_length

READ_SIZE = 256 * 2**10


class ChannelClosed(Exception):
    """The front is gone, so the worker must exit."""


class Channel:
    """Framed messages over one end of a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Write one message; blocks while the front is busy. Raises ChannelClosed."""
        try:
            self._socket.sendall(frame(message))
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, wait: float) -> list[FrontMessage]:
        """All messages received so far; waits up to ``wait`` seconds for the first. Raises ChannelClosed."""
        messages = self._parse()
        while not messages:
            readable, _, _ = select.select([self._socket], [], [], max(0.0, wait))
            if not readable:
                return []
            self._read()
            messages = self._parse()
            wait = 0.0
        return messages

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("the front closed the channel")
        self._buffer += data

    def _parse(self) -> list[FrontMessage]:
        messages = []
        while len(self._buffer) >= HEADER.size:
            end = HEADER.size + frame_length(bytes(self._buffer[: HEADER.size]))
            if len(self._buffer) < end:
                break
            messages.append(decode_front(bytes(self._buffer[HEADER.size : end])))
            del self._buffer[:end]
        return messages
