"""Sends a viewer everything after the first message: queue position, start, chunks, end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from model.spec import ModelSpec
from model.words.vocabularies import unknown_words, warnings
from server import errors
from server.config import Settings
from server.errors import PafuError
from server.ipc.messages import Ended, Fragment, Rejected
from server.live import audience, client_messages
from server.live.audience import Subscriber
from server.live.server_messages import (
    ChunkMetadata,
    InteractionApplied,
    InteractionRejected,
    SessionDone,
    SessionInterrupted,
    SessionQueued,
    VideoStart,
)
from server.live.session import LiveSession
from server.live.viewer_socket import ViewerSocket
from server.media.annexb import access_units, parameter_sets
from server.telemetry import logs
from server.telemetry.observer import ViewerMetrics

log = logging.getLogger("pafu.session")


@dataclass(frozen=True)
class Admitted:
    """An accepted first message: the session, the viewer's subscription, the resume token, and the message."""

    session: LiveSession
    subscriber: Subscriber
    token: str | None
    start: client_messages.FirstMessage


class Delivery:
    """The sending half of a connection to a live session. ``streaming``: between video.start and the end."""

    def __init__(
        self,
        socket: ViewerSocket,
        admitted: Admitted,
        metrics: ViewerMetrics,
        spec: ModelSpec,
        settings: Settings,
        request_id: str,
    ) -> None:
        self.streaming = False
        self._socket, self._admitted, self._metrics = socket, admitted, metrics
        self._spec, self._settings, self._request_id = spec, settings, request_id
        self._head = b""  # sent before the next fragment

    async def run(self, refused: Callable[[str, str], Awaitable[None]]) -> None:
        """Send the session's notices and chunks until it ends. Raises PafuError if it fails or the viewer stalls.

        ``refused`` is called with the event id of a change that the model refused, and the reason.
        """
        session = self._admitted.session
        while True:
            match await self._next():
                case audience.Opened():
                    self._metrics.opened()
                    logs.prompt(log, session.order.prompt)
                    await self._socket.send(self._video_start())
                    self._head = session.init
                    self.streaming = True
                case Fragment() as fragment:
                    await self._send_fragment(fragment)
                case Rejected() as rejected:
                    await refused(rejected.event_id, rejected.message)
                case audience.Queued(position, depth, seconds):
                    await self._socket.send(SessionQueued(position=position, queue_depth=depth, seconds=seconds))
                case audience.Interrupted(reason):
                    await self._socket.send(SessionInterrupted(session_id=session.id, reason=reason))
                case audience.TakenOver():
                    raise PafuError("session_taken", "another connection has resumed this session")
                case Ended() as ended:
                    if ended.code is not None:
                        raise PafuError(ended.code, ended.message)
                    return await self._done(ended.reason)
                case PafuError() as error:
                    raise error

    async def _next(self) -> audience.Notice | Fragment:
        """Wait for the next notice or chunk. Raises PafuError viewer_stalled if the viewer's playhead blocks
        generation."""
        session, subscriber = self._admitted.session, self._admitted.subscriber
        while True:
            try:
                async with asyncio.timeout(self._settings.stall_timeout):
                    return await session.next(subscriber)
            except TimeoutError:
                if subscriber.owner and not session.paused and session.waits_for_viewer:
                    raise self._stalled() from None

    def _stalled(self) -> PafuError:
        within = self._settings.stall_timeout
        return PafuError("viewer_stalled", f"the viewer read no video for {within:g} s; resume the session to continue")

    async def _send_fragment(self, fragment: Fragment) -> None:
        session, subscriber = self._admitted.session, self._admitted.subscriber
        for event_id in fragment.started:
            await self._socket.send(InteractionApplied(event_id=event_id, chunk_index=fragment.index))
        parts = self._parts(subscriber.format, fragment, session.init)
        data = b"".join(parts)
        sizes = None if subscriber.format == "m4s" else [len(part) for part in parts]
        try:
            with self._metrics.sending(fragment, len(data), subscriber.format):
                async with asyncio.timeout(self._settings.stall_timeout):
                    await self._socket.send_chunk(ChunkMetadata.of(fragment, len(data), sizes, self._request_id), data)
        except TimeoutError:
            raise self._stalled() from None
        await session.delivered(subscriber, fragment)

    def _parts(self, format: str, fragment: Fragment, init: bytes) -> list[bytes]:
        """The chunk in the viewer's format: one fragment, or one part per picture."""
        match format:
            case "jpeg":
                return fragment.jpegs
            case "h264":
                return access_units(fragment.data, parameter_sets(init))
            case _:
                head, self._head = self._head, b""
                return [head + fragment.data]

    def _video_start(self) -> VideoStart:
        admitted = self._admitted
        session, start = admitted.session, admitted.start
        begins = isinstance(start, client_messages.SessionStart)
        prompt = session.order.prompt if begins else session.prompt
        pictures = session.order.pictures
        endless = pictures == client_messages.most_pictures(self._spec, self._settings)
        return VideoStart.of(
            session.order,
            self._spec,
            prompt=prompt,
            unknown_words=unknown_words(prompt, self._spec),
            warnings=warnings(prompt, self._spec),
            num_frames=None if endless else pictures,
            request_id=self._request_id,
            format=admitted.subscriber.format,
            session_mime=session.mime,
            resumed=isinstance(start, client_messages.SessionResume),
            next_chunk_index=max(0, admitted.subscriber.cursor),
            hls=session.hls,
            resume_token=admitted.token,
        )

    async def _done(self, reason: str) -> None:
        session, subscriber = self._admitted.session, self._admitted.subscriber
        shutdown = reason == "server_shutdown"
        resumable = shutdown and session.restartable
        lost = session.pending if subscriber.owner and not resumable else []  # else they stay pending
        for event_id in lost:
            over = PafuError("interaction_failed", "the session ended before the change was shown")
            await self._socket.send(InteractionRejected.of(event_id, over))
        self._metrics.over(reason)
        done = SessionDone(
            session_id=session.id,
            chunks=session.next_index,
            stopped=reason != "complete",
            reason=reason,
            resumable=resumable,
            request_id=self._request_id,
        )
        log.info("%s: %s", session.id, reason)
        self.streaming = False
        await self._socket.end(errors.RESTART if shutdown else errors.NORMAL, done, reason)
