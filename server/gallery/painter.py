"""Generate missing gallery thumbnails with the server's own model, one at a time, while the server is idle.

Thumbnails yield to viewers: ``make_way`` cancels one before the model's next pass. A server that is too slow generates
none and logs this once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time

import msgspec

from model.spec import ModelSpec
from server.config import Settings
from server.engine.interface import Engine
from server.errors import PafuError
from server.gallery.scenes import Scene, scenes_of
from server.gallery.thumbnails import Thumbnails
from server.ipc.messages import Camera, Ended, Fragment, Interact, Open
from server.live import client_messages
from server.media import loop
from server.process import answer_of
from server.states import EngineState

log = logging.getLogger("pafu.gallery")

QUIET_SECONDS = 5.0  # idle time before a thumbnail is started
POLL_SECONDS = 0.5
MOST_SECONDS = 60.0  # longest work for one thumbnail; slower servers have no gallery
MOST_FAILURES = 3


class ThumbnailFailed(Exception):
    """A thumbnail failed, but the next attempt may succeed."""


class Painter:
    """Generates thumbnails in a background task between ``start`` and ``stop``."""

    def __init__(self, settings: Settings, spec: ModelSpec, engine: Engine, thumbnails: Thumbnails) -> None:
        self._settings, self._spec, self._engine, self._thumbnails = settings, spec, engine, thumbnails
        self._quiet_since = time.monotonic()
        self._painting: asyncio.Task[bytes | None] | None = None
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run(), name="gallery")

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    def make_way(self) -> None:
        """A viewer came: cancel the current thumbnail."""
        self._quiet_since = time.monotonic()
        if self._painting is not None:
            self._painting.cancel()

    @property
    def digest(self) -> str | None:
        """Digest of the loaded weights; None before they are loaded."""
        ready = self._engine.status().ready
        return ready[0].digest if ready else None

    async def _run(self) -> None:
        failures = 0
        while failures < MOST_FAILURES and (name_and_scene := await self._next()):
            name, scene = name_and_scene
            self._painting = asyncio.create_task(self._paint(scene), name="gallery-scene")
            try:
                await asyncio.wait((self._painting,))
                if not self._painting.cancelled() and (picture := self._painting.result()):
                    await asyncio.to_thread(self._thumbnails.write, name, picture)
            except (ThumbnailFailed, PafuError, OSError) as error:
                if isinstance(error, PafuError) and error.kind.retryable:
                    continue  # a viewer took the place
                failures += 1
                log.info("a gallery thumbnail failed: %s", error)
            finally:
                await self._leave()

    async def _leave(self) -> None:
        """Cancel the current thumbnail when the loop ends."""
        if self._painting is not None and not self._painting.done():
            self._painting.cancel()
            await asyncio.gather(self._painting, return_exceptions=True)
        self._painting = None

    async def _next(self) -> tuple[str, Scene] | None:
        """Wait until the server is idle; the next missing thumbnail, or None if there is none or the server is too
        slow."""
        await self._rest()
        digest = self.digest or ""
        named = {scene.name(self._spec, digest): scene for scene in scenes_of(self._spec)}
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._thumbnails.tidy, named)
        missing = next(((name, scene) for name, scene in named.items() if not self._thumbnails.has(name)), None)
        if missing is not None and (seconds := self._seconds_of_work()) > MOST_SECONDS:
            log.info("no gallery: a thumbnail would take %.0f s here", seconds)
            return None
        return missing

    async def _rest(self) -> None:
        """Wait until the engine has been idle for QUIET_SECONDS."""
        while True:
            status, now = self._engine.status(), time.monotonic()
            if status.state is not EngineState.READY or status.sessions:
                self._quiet_since = now
            elif now - self._quiet_since >= QUIET_SECONDS:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _seconds_of_work(self) -> float:
        each = self._engine.status().capacity.chunk_seconds or 0.0
        return each * math.ceil(self._pictures / self._spec.pictures_in_chunk(1))

    @property
    def _pictures(self) -> int:
        return round(loop.SECONDS * self._spec.fps)

    def _order(self, scene: Scene) -> Open:
        start = client_messages.SessionStart(type="session.start", prompt=scene.prompt, seed=scene.seed)
        order = client_messages.check_start(start, self._spec, self._settings)
        return msgspec.structs.replace(
            order,
            session=f"gallery_{secrets.token_hex(8)}",
            background=True,
            pictures=self._pictures,
            lead_seconds=math.inf,
        )

    async def _paint(self, scene: Scene) -> bytes | None:
        """Generate one thumbnail; None if a viewer needed the place. Raises ThumbnailFailed, or PafuError without a
        place."""
        engine_session = await self._engine.open(self._order(scene))
        video = bytearray()
        try:
            if scene.speed:
                camera = Camera(speed=scene.speed)
                await engine_session.interact(
                    Interact(session=engine_session.id, event_id="pan", prompt=None, camera=camera, chunks=1)
                )
            async for event in engine_session.events():
                match event:
                    case Fragment():
                        video += event.data
                        await engine_session.delivered(event.index)
                    case Ended(code="preempted"):
                        return None
                    case Ended(code=str()):
                        raise ThumbnailFailed(event.message)
        finally:
            await engine_session.close()
        status, picture, errors = await answer_of(loop.COMMAND, bytes(video))
        if status:
            raise ThumbnailFailed(errors.decode(errors="replace")[-200:])
        return picture
