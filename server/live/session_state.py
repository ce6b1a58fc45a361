"""The state of a session that can be stored and restored on another worker or server."""

from __future__ import annotations

import time

import msgspec

from model.spec import ModelSpec
from server.ipc.messages import Fragment, Interact, Open, Rejected
from server.live.archive import FORMAT, Record, StoredSession
from server.live.audience import Audience
from server.live.changes import Changes
from server.live.replay import Replay
from server.live.resume_point import ResumePoint


class SessionState:
    """Viewers, changes and resume point of one session."""

    def __init__(self, order: Open, token: bytes, caller: str, spec: ModelSpec) -> None:
        self.id, self.order, self.token, self.caller = order.session, order, token, caller
        self.created = time.time()
        self.newest: Fragment | None = None
        self.audience = Audience(Replay(spec.fps), order.jpeg)
        self.changes = Changes(order.in_force, order.changes)
        self._resume_point = ResumePoint(spec, order.cache)

    @classmethod
    def from_stored(cls, stored: StoredSession, spec: ModelSpec) -> SessionState:
        """Rebuild the state from a stored session."""
        record = stored.record
        state = cls(record.order, record.token, record.caller, spec)
        state.created = record.created
        replay = Replay(spec.fps, record.replay_begins)
        state.audience = Audience(replay, record.order.jpeg)
        state.audience.mime, state.audience.init = record.mime, record.init
        if record.past is not None:
            state._resume_point.resume(record.past)
        for fragment in record.replay:
            replay.add(fragment)
        state.newest = replay.newest
        state.changes = Changes(record.order.in_force, record.pending)
        for entry in stored.entries:
            state.absorb(entry)
        return state

    @property
    def next_index(self) -> int:
        """Index of the next chunk to generate."""
        return self._resume_point.next_index

    @property
    def started(self) -> bool:
        """Whether it has at least one chunk."""
        return self.next_index > 0

    @property
    def prompt(self) -> str:
        """Prompt of the newest chunk, or of the first before there is one."""
        return self.newest.stats.prompt if self.newest is not None else self.order.prompt

    @property
    def told(self) -> str:
        """What the model was told for the newest chunk: the prompt, and what it leaves open."""
        return (self.newest.stats.told if self.newest is not None else "") or self.prompt

    def absorb(self, entry: Fragment | Interact | Rejected) -> None:
        """Apply a chunk, change or rejection to the state."""
        match entry:
            case Interact():
                self.changes.add(entry)
            case Rejected():
                self.changes.reject(entry.event_id)
            case Fragment():
                self._absorb_chunk(entry)

    def _absorb_chunk(self, fragment: Fragment) -> None:
        self.changes.absorb(fragment)
        self._resume_point.add(fragment)
        if fragment.index == 0:  # the server sends ftyp and moov separately to each viewer
            fragment = msgspec.structs.replace(fragment, data=fragment.data.removeprefix(self.audience.init))
        self.audience.replay.add(fragment)
        self.newest = self.audience.replay.newest

    def open_request(self, snapshot: str | None) -> Open:
        """The request that opens the session on a worker in its current state."""
        return msgspec.structs.replace(
            self.order,
            prompt=self.prompt,
            jpeg=self.audience.wants_jpeg,
            past=self._resume_point.past(),
            snapshot=snapshot,
            in_force=self.changes.in_force,
        )

    def record(self, parked: bool) -> Record:
        """The record for the journal. ``parked``: there is a worker's snapshot of the same moment."""
        audience = self.audience
        return Record(
            format=FORMAT,
            order=msgspec.structs.replace(self.open_request(None), past=None),
            token=self.token,
            past=self._resume_point.past(),
            mime=audience.mime,
            init=audience.init,
            replay_begins=audience.replay.begins,
            replay=audience.replay.fragments,
            pending=self.changes.pending,
            parked=parked,
            created=self.created,
            caller=self.caller,
        )
