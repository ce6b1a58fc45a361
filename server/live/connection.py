"""One viewer's connection: a state machine between a WebSocket and a live session (server.live.session).

WAITING -> OPENING -> STREAMING -> CLOSED. An error before STREAMING ends the connection; a faulty control message in
a running stream is answered and forgiven, up to a limit. A connection that ends otherwise than by session.stop leaves
its session behind, to be resumed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from model.spec import ModelSpec
from server import errors
from server.access.limits import Caller
from server.bounded_json import Bounds
from server.config import Settings
from server.errors import PafuError
from server.ipc import messages
from server.live import client_messages as protocol
from server.live import session as live
from server.live.registry import Sessions
from server.live.session import LiveSession, Place
from server.media.annexb import access_units, parameter_sets
from server.telemetry import logs
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.session")

FATAL = ("binary_message", "message_too_large", "too_many_errors")
CLOSE_WITHIN = 5.0


class State(Enum):
    """Where a connection stands; it only ever moves forward."""

    WAITING = "waiting for session.start"
    OPENING = "opening"
    STREAMING = "streaming"
    CLOSED = "closed"


@dataclass(frozen=True)
class Admitted:
    """What the first message led to: a session, this viewer's place at it, and the token that resumes it."""

    session: LiveSession
    place: Place
    token: str | None
    start: protocol.FirstMessage


class ViewerSession:
    """Everything that one connection needs, from accept to close."""

    def __init__(
        self,
        websocket: WebSocket,
        caller: Caller,
        sessions: Sessions,
        spec: ModelSpec,
        settings: Settings,
        observer: Observer,
    ) -> None:
        self.id = f"sess_{secrets.token_hex(8)}"
        self.state = State.WAITING
        self._socket = websocket
        self.caller = caller
        self._sessions = sessions
        self._spec = spec
        self._settings = settings
        self._admitted: Admitted | None = None
        self._writing = asyncio.Lock()  # a chunk's metadata and its bytes must not be parted
        self._head = b""  # what goes before the next fragment's bytes
        self._events = 0
        self._bad_messages = 0
        self._revoked = False
        self._request_id = (websocket.headers.get("x-request-id") or f"req_{self.id.removeprefix('sess_')}")[:128]
        self._watch = observer.viewer(self._request_id, websocket.headers)

    def revoke(self) -> None:
        """End the connection: its caller's key is gone. The session waits, as after every lost connection."""
        self._revoked = True
        if self._admitted is not None:
            self._admitted.session.dismiss(self._admitted.place, revoked())

    async def run(self) -> None:
        """Serve the viewer to the end; returns when the socket is closed and the session knows that it is gone."""
        with logs.about(session_id=self.id, request_id=self._request_id):
            await self._run()

    async def _run(self) -> None:
        try:
            await self._accept()
            first = await self._receive_first()
            self._admitted = await self._admit(first)
            self.id = self._admitted.session.id
            begins = isinstance(first, protocol.SessionStart)
            self._watch.asked(self.id, begins=begins, owner=self._admitted.place.owner)
            logs.rename(session_id=self.id)
            await self._serve(self._admitted)
        except PafuError as error:
            self._watch.failed(error.kind.code)
            await self._end(error.kind.close, error.wire_message(), error.message)
        except WebSocketDisconnect:
            self._watch.over("viewer_left")
            log.info("%s: the viewer left", self.id)
        except Exception:
            log.exception("%s failed", self.id)
            mistake = PafuError("internal_error", "the server made a mistake; it is in its log")
            self._watch.failed(mistake.kind.code)
            await self._end(mistake.kind.close, mistake.wire_message(), mistake.message)
        finally:
            self.state = State.CLOSED
            self._watch.over("viewer_left")  # unless it was told why before
            if self._admitted is not None:
                await self._admitted.session.leave(self._admitted.place)

    # ---- opening

    async def _accept(self) -> None:
        """Raises WebSocketDisconnect when nobody is there any more."""
        try:
            await self._socket.accept()
        except OSError:  # Starlette translates it only behind the handshake
            raise WebSocketDisconnect(1006) from None

    async def _receive_first(self) -> protocol.FirstMessage:
        within = self._settings.start_timeout
        try:
            async with asyncio.timeout(within):
                bounds = protocol.first_bounds(self._settings)
                message = await self._receive(bounds)
                while isinstance(message, protocol.SessionPing):
                    await self._send({"type": "session.pong"})
                    message = await self._receive(bounds)
        except TimeoutError:
            raise PafuError("start_timeout", f"no session.start within {within:g} s of connecting") from None
        if not isinstance(message, protocol.FirstMessage):
            raise PafuError("invalid_message", f"{message.type} came before session.start", "type")
        return message

    async def _admit(self, first: protocol.FirstMessage) -> Admitted:
        """The session that the first message asks for. Raises PafuError."""
        self.state = State.OPENING
        if self._revoked:
            raise revoked()
        match first:
            case protocol.SessionStart():
                order = self._order(first)
                session, token = self._sessions.create(order, self.caller)
                return Admitted(session, await session.own(first.format), token, first)
            case protocol.SessionResume():
                name, token, last = protocol.check_resume(first)
                session = self._sessions.resume(name, token, self.caller)
                return Admitted(session, await session.own(self._format(first), last), token, first)
            case protocol.SessionWatch():
                session = self._sessions.find(first.session_id, self.caller)
                return Admitted(session, await session.watch(protocol.check_format(first.format)), None, first)

    def _format(self, message: protocol.SessionResume) -> str:
        return protocol.check_format(message.format or "m4s")

    def _order(self, start: protocol.SessionStart) -> messages.Open:
        order = protocol.check_start(start, self._spec, self._settings)
        seed = secrets.randbelow(2**31) if start.seed is None else start.seed
        return msgspec.structs.replace(order, session=self.id, seed=seed, request=self._request_id)

    async def _serve(self, admitted: Admitted) -> None:
        """Stream and listen at once; whichever ends first ends the other."""
        stream = asyncio.create_task(self._stream(admitted), name=f"{self.id}-stream")
        listen = asyncio.create_task(self._listen(admitted), name=f"{self.id}-listen")
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

    async def _stream(self, admitted: Admitted) -> None:
        session, place = admitted.session, admitted.place
        while True:
            match await self._next(session, place):
                case live.Opened():
                    self._watch.opened()
                    logs.prompt(log, session.order.prompt)
                    await self._send(self._video_start(admitted))
                    self._head = session.init
                    self.state = State.STREAMING
                case messages.Fragment() as fragment:
                    await self._send_fragment(session, place, fragment)
                case messages.Rejected() as rejected:
                    self._watch.refused(rejected.event_id)
                    refused = PafuError("interaction_failed", rejected.message, "interaction.event")
                    await self._send_rejected(rejected.event_id, refused)
                case live.Queued(position, depth):
                    await self._send({"type": "session.queued", "position": position, "queue_depth": depth})
                case live.Interrupted(reason):
                    await self._send({"type": "session.interrupted", "session_id": session.id, "reason": reason})
                case live.Taken():
                    raise PafuError("session_taken", "another connection has resumed this session")
                case messages.Ended() as ended:
                    if ended.code is not None:
                        raise PafuError(ended.code, ended.message)
                    return await self._done(session, place, ended.reason)
                case PafuError() as error:
                    raise error

    async def _next(
        self, session: LiveSession, place: Place
    ) -> live.Notice | messages.Fragment | messages.Ended | PafuError:
        """What comes next. Raises PafuError viewer_stalled when the viewer is why nothing does."""
        while True:
            try:
                async with asyncio.timeout(self._settings.stall_timeout):
                    return await session.next(place)
            except TimeoutError:
                if place.owner and not session.paused and session.waits_for_viewer:
                    raise self._stalled() from None

    def _stalled(self) -> PafuError:
        within = self._settings.stall_timeout
        return PafuError("viewer_stalled", f"the viewer took no video for {within:g} s; resume the session to go on")

    async def _send_fragment(self, session: LiveSession, place: Place, fragment: messages.Fragment) -> None:
        for event_id in fragment.started:
            applied = {"type": "session.interaction.applied", "event_id": event_id, "chunk_index": fragment.index}
            await self._send(applied)
        parts = self._parts(place.format, fragment)
        data = b"".join(parts)
        metadata = chunk_metadata(fragment, len(data))
        if place.format != "m4s":
            metadata["frame_sizes"] = [len(part) for part in parts]
        try:
            with self._watch.sending(fragment, len(data), place.format):
                async with asyncio.timeout(self._settings.stall_timeout), self._writing:
                    self._check_still_there()
                    await self._socket.send_text(json.dumps(metadata))
                    await self._socket.send_bytes(data)
        except TimeoutError:
            raise self._stalled() from None
        await session.delivered(place, fragment)

    def _parts(self, format: str, fragment: messages.Fragment) -> list[bytes]:
        """The chunk as this viewer wants it: one fragment, or one part per picture."""
        match format:
            case "jpeg":
                return fragment.jpegs
            case "h264":
                assert self._admitted is not None
                return access_units(fragment.data, parameter_sets(self._admitted.session.init))
            case _:
                head, self._head = self._head, b""
                return [head + fragment.data]

    def _video_start(self, admitted: Admitted) -> dict[str, Any]:
        spec, session, order = self._spec, admitted.session, admitted.session.order
        newest = session.newest
        prompt = newest.prompt if newest and not isinstance(admitted.start, protocol.SessionStart) else order.prompt
        config = {
            "model": spec.name,
            "prompt": prompt,
            "width": spec.width,
            "height": spec.height,
            "fps": spec.fps,
            "num_frames": getattr(admitted.start, "num_frames", None),
            "seed": order.seed,
            "chunk_frames": spec.pictures_in_chunk(1),
            "streaming_buffer_seconds": order.lead_seconds,
            "extra_params": {"cache": {name: getattr(order.cache, name) for name in order.cache.__struct_fields__}},
        }
        if order.memory:
            config["memory"] = {
                "pictures_per_latent": spec.temporal_stride,
                "first_latent_pictures": spec.first_latent_pictures,
                "tokens_per_latent": spec.tokens_per_latent,
            }
        message = {
            "type": "video.start",
            "request_id": self._request_id,
            "session_id": session.id,
            "format": admitted.place.format,
            "mime": mime_of(admitted.place.format, session.mime),
            "config": config,
            "unknown_words": protocol.unknown_words(prompt, spec),
            "resumed": isinstance(admitted.start, protocol.SessionResume),
            "next_chunk_index": max(0, admitted.place.cursor),
        }
        return message if admitted.token is None else {**message, "resume_token": admitted.token}

    # ---- listening

    async def _listen(self, admitted: Admitted) -> None:
        """Handle the viewer's messages until it leaves (WebSocketDisconnect) or goes too far (PafuError)."""
        bounds = protocol.control_bounds(self._settings)
        while True:
            try:
                await self._handle(admitted, await self._receive(bounds))
            except PafuError as error:
                if error.kind.code in FATAL or self.state is not State.STREAMING:
                    raise
                await self._forgive(error)

    async def _forgive(self, error: PafuError) -> None:
        self._bad_messages += 1
        if self._bad_messages > self._settings.max_bad_messages:
            raise PafuError("too_many_errors", f"{self._bad_messages} faulty messages; the last: {error.message}")
        self._watch.erred(error.kind.code)
        await self._send(error.wire_message())

    async def _handle(self, admitted: Admitted, message: protocol.ClientMessage) -> None:
        session, place = admitted.session, admitted.place
        match message:
            case protocol.SessionPing():
                await self._send({"type": "session.pong"})
            case protocol.SessionPlayback():
                if place.owner:
                    self._watch.playhead(message.position_seconds)
                    await session.playhead(message.position_seconds)
            case protocol.SessionStop():
                await self._stop(session, place)
            case protocol.SessionInteraction():
                self._only_owner(place)
                await self._interact(session, message.interaction)
            case protocol.SessionPause() | protocol.SessionResume():
                self._only_owner(place)
                await self._pause(session, message)
            case protocol.SessionStart() | protocol.SessionWatch():
                raise PafuError("invalid_message", "the session has begun; open another connection for another", "type")

    def _only_owner(self, place: Place) -> None:
        if not place.owner:
            raise PafuError("not_the_owner", "whoever looks on cannot steer; only the session's owner can", "type")

    async def _stop(self, session: LiveSession, place: Place) -> None:
        """The owner ends the session, who looks on only his looking."""
        if place.owner:
            return await session.stop()
        session.dismiss(place)

    async def _pause(self, session: LiveSession, message: protocol.SessionPause | protocol.SessionResume) -> None:
        paused = isinstance(message, protocol.SessionPause)
        if isinstance(message, protocol.SessionResume) and message.session_id is not None:
            raise PafuError("invalid_message", "this connection has its session; open another to resume one", "type")
        self._watch.paused(paused)
        await session.pause(paused)
        kind = "session.paused" if paused else "session.resumed"
        await self._send({"type": kind, "session_id": session.id, "next_chunk_index": session.next_index})

    async def _interact(self, session: LiveSession, interaction: protocol.Interaction) -> None:
        """Queue a change; one that cannot be queued is rejected under its id."""
        try:
            change = self._change(session, interaction)
            await session.expect(change)
            self._watch.changed(change.event_id)
        except PafuError as error:
            if interaction.event_id is None:
                raise
            return await self._send_rejected(interaction.event_id, error, faulty=True)
        unknown = protocol.unknown_words(change.prompt or "", self._spec)
        queued = {"type": "session.interaction.queued", "event_id": change.event_id, "unknown_words": unknown}
        await self._send(queued)
        await session.interact(change)

    def _change(self, session: LiveSession, interaction: protocol.Interaction) -> messages.Interact:
        prompt, camera = protocol.check_event(interaction, self._spec)
        if self.state is not State.STREAMING:
            raise PafuError("interaction_failed", "wait for video.start before you change anything", "type")
        self._events += 1
        return messages.Interact(
            session=session.id,
            event_id=interaction.event_id or f"evt_{secrets.token_hex(4)}_{self._events}",
            prompt=prompt,
            camera=camera,
            chunks=interaction.transition_chunks or 1,
        )

    async def _send_rejected(self, event_id: str, error: PafuError, faulty: bool = False) -> None:
        """The end of a change's life; the error behind it is what clients of the plain protocol listen to."""
        if self.state is not State.STREAMING:
            raise error
        rejected = {"type": "session.interaction.rejected", "event_id": event_id, "code": error.kind.code}
        await self._send({**rejected, "message": error.message, "param": error.param})
        if faulty:
            self._bad_messages += 1
            if self._bad_messages > self._settings.max_bad_messages:
                raise PafuError("too_many_errors", f"{self._bad_messages} faulty messages; the last: {error.message}")
        await self._send({**error.wire_message(), "event_id": event_id})

    async def _receive(self, bounds: Bounds) -> protocol.ClientMessage:
        received = await self._socket.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1005), received.get("reason"))
        text = received.get("text")
        if text is None:
            raise PafuError("binary_message", "viewers speak JSON text; a binary message means nothing here")
        return protocol.parse(text, bounds)

    # ---- ending

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._writing:
            self._check_still_there()
            await self._socket.send_text(json.dumps(message))

    def _check_still_there(self) -> None:
        """A socket that the other side closed, or uvicorn for it, is a viewer that left and no mistake of ours."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            raise WebSocketDisconnect(1006)

    async def _done(self, session: LiveSession, place: Place, reason: str) -> None:
        shutdown = reason == "server_shutdown"
        resumable = shutdown and session.restartable
        lost = session.pending if place.owner and not resumable else []  # or they wait on with the session
        for event_id in lost:
            over = PafuError("interaction_failed", "the session ended before the chunk that would have shown it")
            rejected = {"type": "session.interaction.rejected", "event_id": event_id, "code": over.kind.code}
            await self._send({**rejected, "message": over.message, "param": None})
        self._watch.over(reason)
        done = {
            "type": "session.done",
            "session_id": session.id,
            "chunks": session.next_index,
            "stopped": reason != "complete",
            "reason": reason,
            "resumable": resumable,
        }
        await self._end(errors.RESTART if shutdown else errors.NORMAL, done, reason)

    async def _end(self, code: int, message: dict[str, Any], reason: str) -> None:
        """Say the last word and close; a viewer who does not listen any more is not waited for."""
        log.info("%s: %s", self.id, reason)
        self.state = State.CLOSED
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        with contextlib.suppress(WebSocketDisconnect, TimeoutError, RuntimeError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self._send(message)
                await self._socket.close(code, _close_reason(reason))


def revoked() -> PafuError:
    """What a viewer is told whose key was taken away."""
    return PafuError(
        "invalid_key", "the key of this connection was removed or has expired; ask the operator for another"
    )


def _close_reason(text: str) -> str:
    """A close frame holds at most 123 bytes of reason."""
    return text.encode()[:120].decode(errors="ignore")


def mime_of(format: str, mime: str) -> str:
    """The type of what the viewer gets: a container with its codec, or the bare codec string for WebCodecs."""
    codec = mime.partition('codecs="')[2].rstrip('"')
    return {"m4s": mime, "h264": f"video/h264; codecs={codec}", "jpeg": "image/jpeg"}[format]


def memory_picture(kept: messages.KeptTokens) -> dict[str, Any]:
    """Kept tokens for JSON: bytes as base64, rows x columns of them for each of ``latents``."""
    return {
        "rows": kept.rows,
        "columns": kept.columns,
        "latents": kept.latents,
        "kept": base64.b64encode(kept.kept).decode(),
        "salience": base64.b64encode(kept.salience).decode(),
    }


def chunk_metadata(fragment: messages.Fragment, size: int) -> dict[str, Any]:
    """The message that goes before a chunk's ``size`` bytes."""
    stats: dict[str, Any] = {
        "chunk_seconds": fragment.seconds.get("total", 0.0),
        "seconds": fragment.seconds,
        "cache_tokens": fragment.cache_tokens,
        "cache_bytes": fragment.cache_bytes,
        "evicted_tokens": fragment.evicted_tokens,
        "cache_policy": fragment.cache_policy,
        "cache_fell_back": fragment.cache_fell_back,
        "lead_seconds": fragment.lead_seconds,
        "prompt": fragment.prompt,
        "camera": {"offset": fragment.camera_offset, "speed": fragment.camera_speed},
    }
    if fragment.kept is not None:
        stats["memory"] = memory_picture(fragment.kept)
    return {
        "type": "video.chunk_metadata",
        "kind": "media",
        "transport_chunk_index": fragment.index,
        "generation_chunk_index": fragment.index,
        "num_frames": fragment.pictures,
        "byte_length": size,
        "started_event_ids": fragment.started,
        "active_event_ids": fragment.active,
        "completed_event_ids": fragment.completed,
        "stats": stats,
    }
