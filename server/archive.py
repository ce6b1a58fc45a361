"""Sessions without a viewer, on disk: the worker's snapshot (safetensors) and the front's record beside it.

A record survives the server, so that a viewer can resume after a restart. Files are found by the ids that the server
made itself; no path is built from what a client sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Container
from pathlib import Path

import msgspec

from server.disk import write_whole
from server.limits import ANONYMOUS
from server.messages import Fragment, Interact, Open, Past

log = logging.getLogger("pafu.archive")

SESSION_ID = re.compile(r"sess_[0-9a-f]{16}")
FORMAT = 1


def hashed(token: str) -> bytes:
    """What is kept of a resume token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the front needs to go on with a session: its order, its numbers, chunks that were not seen yet."""

    format: int
    order: Open
    token: bytes  # hashed
    past: Past | None
    mime: str
    init: bytes
    replay_begins: float
    replay: list[Fragment]
    created: float  # seconds since the epoch
    pending: list[Interact] = []  # changes that no chunk has shown yet
    parked: bool = False  # the worker's snapshot beside it is of the same moment
    caller: str = ANONYMOUS.name  # whose session it is


class Archive:
    """The folder of parked sessions. A folder that cannot be written costs the parking, not the server."""

    def __init__(self, folder: Path, keep: float) -> None:
        self._folder = folder
        self._keep = keep
        self._decoder = msgspec.msgpack.Decoder(Record)

    def prepare(self, in_use: Container[str]) -> None:
        """Make the folder, readable by its owner only, and throw away what nobody came back for in time.

        Files of the sessions ``in_use`` stay, however old the clock says that they are.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._folder.iterdir():
                session = path.name.partition(".")[0]
                old = time.time() - path.stat().st_mtime > self._keep
                if old and SESSION_ID.fullmatch(session) and session not in in_use:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("sessions cannot be kept in %s: %s", self._folder, error.strerror)

    def snapshot(self, session: str) -> Path:
        """Where the worker writes the session's state."""
        return self._path(session, "safetensors")

    def save(self, record: Record) -> None:
        """Write the record, whole or not at all. Raises OSError."""
        write_whole(self._path(record.order.session, "session"), msgspec.msgpack.encode(record))

    def load(self, session: str) -> Record | None:
        """The record of this session, None when there is none that can be read."""
        if not SESSION_ID.fullmatch(session):
            return None
        try:
            record = self._decoder.decode(self._path(session, "session").read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("the record of %s cannot be read: %s", session, error)
            return None
        return record if record.format == FORMAT and time.time() - record.created <= self._keep else None

    def drop(self, session: str) -> None:
        """Forget the session's files."""
        for kind in ("session", "safetensors"):
            with contextlib.suppress(OSError):
                self._path(session, kind).unlink()

    def _path(self, session: str, kind: str) -> Path:
        if not SESSION_ID.fullmatch(session):
            raise ValueError(f"{session!r} is no session id of this server")
        return self._folder / f"{session}.{kind}"
