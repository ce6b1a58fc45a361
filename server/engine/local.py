"""The default engine: worker processes on this machine, one per configured device.

A session stays on its worker until it ends, or until the worker dies or is drained; then it is reopened wherever there
is room. Workers start, fail and restart independently; the engine is ready while any of them accepts sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from server.config import Settings
from server.config.devices import Slot
from server.engine.assignment import assign
from server.engine.member import Member
from server.engine.pool import Pool
from server.engine.pooled import SHUT_DOWN, PooledEngine
from server.engine.supervisor import WORKER_COMMAND


class LocalEngine(PooledEngine):
    """An engine over the local workers of one server."""

    def __init__(self, settings: Settings, slots: Sequence[Slot], command: Sequence[str] = WORKER_COMMAND) -> None:
        super().__init__(settings.spec, Pool([], settings.max_sessions))
        assignments = [assign(settings, slot, len(slots), command) for slot in slots]
        self._members = [Member(assignment, self.observer, self._note_change) for assignment in assignments]
        self.pool.members.extend(self._members)
        self._note_change()

    async def start(self) -> None:
        for member in self._members:
            member.start()

    async def stop(self, within: float) -> None:
        """Shut the workers down; kill them after ``within`` seconds."""
        self._stopped = True
        self._drains.cancel()
        await asyncio.gather(*(member.stop(within, SHUT_DOWN) for member in self._members))
        self._note_change()
