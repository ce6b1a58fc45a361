"""One viewer's connection: a state machine between a WebSocket and a live session (server.live.session).

WAITING -> OPENING -> STREAMING -> CLOSED. An error before STREAMING ends the connection. A connection that ends
otherwise than by session.stop leaves its session behind, to be resumed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from enum import Enum

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from model.spec import ModelSpec
from model.words import unknown_words, warnings
from server import errors
from server.access.limits import Caller
from server.config import Settings
from server.errors import PafuError
from server.ipc.messages import Ended, Fragment, Interact, Open, Rejected
from server.live import audience, client_messages
from server.live.audience import Subscriber
from server.live.registry import SessionRegistry
from server.live.server_messages import (
    ChunkMetadata,
    Error,
    InteractionApplied,
    InteractionRejected,
    SessionDone,
    SessionInterrupted,
    SessionPong,
    SessionQueued,
    VideoStart,
)
from server.live.session import LiveSession
from server.live.steering import Steering
from server.live.viewer_socket import ViewerSocket
from server.media.annexb import access_units, parameter_sets
from server.telemetry import logs
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.session")


class State(Enum):
    """Where a connection stands; it only ever moves forward."""

    WAITING = "waiting for session.start"
    OPENING = "opening"
    STREAMING = "streaming"
    CLOSED = "closed"


@dataclass(frozen=True)
class Admitted:
    """What the first message led to: a session, this viewer's subscription, and the token that resumes it."""

    session: LiveSession
    subscriber: Subscriber
    token: str | None
    start: client_messages.FirstMessage


class ViewerConnection:
    """Everything that one connection needs, from accept to close."""

    def __init__(
        self,
        websocket: WebSocket,
        caller: Caller,
        sessions: SessionRegistry,
        spec: ModelSpec,
        settings: Settings,
        observer: Observer,
    ) -> None:
        self.id = f"sess_{secrets.token_hex(8)}"
        self.state = State.WAITING
        self._socket = ViewerSocket(websocket)
        self.caller = caller
        self._sessions, self._spec, self._settings = sessions, spec, settings
        self._admitted: Admitted | None = None
        self._head = b""  # what goes before the next fragment's bytes
        self._revoked = False
        self._request_id: str = websocket.state.request_id
        self._metrics = observer.viewer(self._request_id, websocket.headers)

    def revoke(self) -> None:
        """End the connection because its caller's key is gone. The session waits, as after every lost connection."""
        self._revoked = True
        if self._admitted is not None:
            self._admitted.session.dismiss(self._admitted.subscriber, revoked())

    async def run(self) -> None:
        """Serve the viewer to the end; returns when the socket is closed and the session knows that it is gone."""
        with logs.about(session_id=self.id, request_id=self._request_id):
            await self._run()

    async def _run(self) -> None:
        try:
            await self._socket.accept()
            first = await self._receive_first()
            self._admitted = await self._admit(first)
            self.id = self._admitted.session.id
            begins = isinstance(first, client_messages.SessionStart)
            self._metrics.asked(self.id, begins=begins, owner=self._admitted.subscriber.owner)
            logs.rename(session_id=self.id, **({"trace_id": trace} if (trace := self._metrics.trace_id) else {}))
            await self._serve(self._admitted)
        except PafuError as error:
            await self._fail(error)
        except WebSocketDisconnect:
            self._metrics.over("viewer_left")
            log.info("%s: the viewer left", self.id)
        except Exception:
            log.exception("%s failed", self.id)
            await self._fail(PafuError("internal_error", "the server made a mistake; it is in its log"))
        finally:
            self.state = State.CLOSED
            self._metrics.over("viewer_left")  # unless it was told why before
            if self._admitted is not None:
                await self._admitted.session.leave(self._admitted.subscriber)

    # ---- opening

    async def _receive_first(self) -> client_messages.FirstMessage:
        within = self._settings.start_timeout
        try:
            async with asyncio.timeout(within):
                bounds = client_messages.first_bounds(self._settings)
                message = await self._socket.receive(bounds)
                while isinstance(message, client_messages.SessionPing):
                    await self._socket.send(SessionPong())
                    message = await self._socket.receive(bounds)
        except TimeoutError:
            raise PafuError("start_timeout", f"no session.start within {within:g} s of connecting") from None
        if not isinstance(message, client_messages.FirstMessage):
            raise PafuError("invalid_message", f"{message.type} came before session.start", "type")
        return message

    async def _admit(self, first: client_messages.FirstMessage) -> Admitted:
        """The session that the first message asks for. Raises PafuError."""
        self.state = State.OPENING
        if self._revoked:
            raise revoked()
        match first:
            case client_messages.SessionStart():
                order = await asyncio.to_thread(self._order, first)  # a picture may have millions of pixels
                session, token = self._sessions.create(order, self.caller)
                return Admitted(session, await session.own(first.format), token, first)
            case client_messages.SessionResume():
                name, token, last = client_messages.check_resume(first)
                session = await self._sessions.resume(name, token, self.caller)
                format = client_messages.check_format(first.format or "m4s")
                return Admitted(session, await session.own(format, last), token, first)
            case client_messages.SessionWatch():
                session = await self._sessions.find(first.session_id, self.caller)
                return Admitted(session, await session.watch(client_messages.check_format(first.format)), None, first)

    def _known_changes(self, start: client_messages.SessionStart) -> list[Interact]:
        """What will change, by the start's own word. Raises PafuError."""
        changes = [
            client_messages.change_of(interaction, self.id, f"evt_start_{place}", self._spec)
            for place, interaction in enumerate(start.interactions)
        ]
        if len({change.event_id for change in changes}) < len(changes):
            raise PafuError("event_id_conflict", "two interactions have one event_id", "interactions")
        if len(changes) > self._settings.max_pending_interactions:
            most = self._settings.max_pending_interactions
            raise PafuError("too_many_interactions", f"interactions has {len(changes)}; allowed is 0 to {most}")
        return changes

    def _order(self, start: client_messages.SessionStart) -> Open:
        order = client_messages.check_start(start, self._spec, self._settings)
        seed = secrets.randbelow(2**31) if start.seed is None else start.seed
        return msgspec.structs.replace(
            order,
            session=self.id,
            seed=seed,
            request=self._request_id,
            trace=self._metrics.trace_id,
            changes=self._known_changes(start),
        )

    async def _serve(self, admitted: Admitted) -> None:
        """Stream and listen at once; whichever ends first ends the other."""
        steering = Steering(
            self._socket,
            admitted.session,
            admitted.subscriber,
            self._metrics,
            self._spec,
            self._settings,
            streaming=lambda: self.state is State.STREAMING,
        )
        stream = asyncio.create_task(self._stream(admitted, steering), name=f"{self.id}-stream")
        listen = asyncio.create_task(steering.listen(), name=f"{self.id}-listen")
        try:
            await asyncio.wait((stream, listen), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stream, listen):
                task.cancel()
            outcomes = await asyncio.gather(stream, listen, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    # ---- streaming

    async def _stream(self, admitted: Admitted, steering: Steering) -> None:
        session, subscriber = admitted.session, admitted.subscriber
        while True:
            match await self._next(session, subscriber):
                case audience.Opened():
                    self._metrics.opened()
                    logs.prompt(log, session.order.prompt)
                    await self._socket.send(self._video_start(admitted))
                    self._head = session.init
                    self.state = State.STREAMING
                case Fragment() as fragment:
                    await self._send_fragment(session, subscriber, fragment)
                case Rejected() as rejected:
                    await steering.refused(rejected.event_id, rejected.message)
                case audience.Queued(position, depth, seconds):
                    await self._socket.send(SessionQueued(position=position, queue_depth=depth, seconds=seconds))
                case audience.Interrupted(reason):
                    await self._socket.send(SessionInterrupted(session_id=session.id, reason=reason))
                case audience.TakenOver():
                    raise PafuError("session_taken", "another connection has resumed this session")
                case Ended() as ended:
                    if ended.code is not None:
                        raise PafuError(ended.code, ended.message)
                    return await self._done(session, subscriber, ended.reason)
                case PafuError() as error:
                    raise error

    async def _next(self, session: LiveSession, subscriber: Subscriber) -> audience.Notice | Fragment:
        """What comes next. Raises PafuError viewer_stalled when the viewer is why nothing does."""
        while True:
            try:
                async with asyncio.timeout(self._settings.stall_timeout):
                    return await session.next(subscriber)
            except TimeoutError:
                if subscriber.owner and not session.paused and session.waits_for_viewer:
                    raise self._stalled() from None

    def _stalled(self) -> PafuError:
        within = self._settings.stall_timeout
        return PafuError("viewer_stalled", f"the viewer took no video for {within:g} s; resume the session to go on")

    async def _send_fragment(self, session: LiveSession, subscriber: Subscriber, fragment: Fragment) -> None:
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

    def _video_start(self, admitted: Admitted) -> VideoStart:
        session, start = admitted.session, admitted.start
        begins = isinstance(start, client_messages.SessionStart)
        prompt = session.order.prompt if begins else session.prompt
        return VideoStart.of(
            session.order,
            self._spec,
            prompt=prompt,
            unknown_words=unknown_words(prompt, self._spec),
            warnings=warnings(prompt, self._spec),
            num_frames=getattr(start, "num_frames", None),
            request_id=self._request_id,
            format=admitted.subscriber.format,
            session_mime=session.mime,
            resumed=isinstance(start, client_messages.SessionResume),
            next_chunk_index=max(0, admitted.subscriber.cursor),
            hls=session.hls,
            resume_token=admitted.token,
        )

    # ---- ending

    async def _done(self, session: LiveSession, subscriber: Subscriber, reason: str) -> None:
        shutdown = reason == "server_shutdown"
        resumable = shutdown and session.restartable
        lost = session.pending if subscriber.owner and not resumable else []  # or they wait on with the session
        for event_id in lost:
            over = PafuError("interaction_failed", "the session ended before the chunk that would have shown it")
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
        log.info("%s: %s", self.id, reason)
        self.state = State.CLOSED
        await self._socket.end(errors.RESTART if shutdown else errors.NORMAL, done, reason)

    async def _fail(self, error: PafuError) -> None:
        self._metrics.failed(error.kind.code)
        log.info("%s: %s", self.id, error.message)
        self.state = State.CLOSED
        await self._socket.end(error.kind.close, Error.of(error), error.message)


def revoked() -> PafuError:
    """What a viewer is told whose key was taken away."""
    return PafuError(
        "invalid_key", "the key of this connection was removed or has expired; ask the operator for another"
    )
