"""One viewer's live session, front side: a state machine between a WebSocket and the engine.

WAITING -> OPENING -> STREAMING -> CLOSED. An error before STREAMING ends the connection; a faulty control message in
a running stream is answered and forgiven, up to a limit.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import secrets
from enum import Enum
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from model.spec import ModelSpec
from server import errors, logs, messages, protocol
from server.config import Settings
from server.engine import Engine, EngineSession
from server.errors import PafuError

log = logging.getLogger("pafu.session")

FATAL = ("binary_message", "message_too_large", "too_many_errors")
CLOSE_WITHIN = 5.0


class State(Enum):
    """Where a session stands; it only ever moves forward."""

    WAITING = "waiting for session.start"
    OPENING = "opening"
    STREAMING = "streaming"
    CLOSED = "closed"


class ViewerSession:
    """Everything that one connection needs, from accept to close."""

    def __init__(self, websocket: WebSocket, engine: Engine, spec: ModelSpec, settings: Settings) -> None:
        self.id = f"sess_{secrets.token_hex(8)}"
        self.state = State.WAITING
        self._socket = websocket
        self._engine = engine
        self._spec = spec
        self._settings = settings
        self._line: EngineSession | None = None
        self._writing = asyncio.Lock()  # a chunk's metadata and its bytes must not be parted
        self._stop = asyncio.Event()
        self._shutting_down = False
        self._pending: set[str] = set()
        self._events = 0
        self._bad_messages = 0
        self._lead_limit = 0.0
        self._sent_seconds = 0.0
        self._reported: float | None = None
        self._request_id = (websocket.headers.get("x-request-id") or f"req_{self.id.removeprefix('sess_')}")[:128]
        self._ids = {"session_id": self.id, "request_id": self._request_id}
        self._watch = engine.observer.session(self._ids, websocket.headers)

    async def run(self) -> None:
        """Serve the viewer to the end; returns when the socket is closed and the worker has forgotten the session."""
        with logs.about(**self._ids):
            await self._run()

    async def _run(self) -> None:
        await self._socket.accept()
        try:
            start = await self._receive_start()
            await self._serve(start)
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
            if self._line is not None:
                await self._line.close()

    async def shut_down(self) -> None:
        """The server is stopping: finish after the chunk in hand and say so."""
        self._shutting_down = True
        self._stop.set()
        if self._line is not None:
            await self._line.finish()

    # ---- opening

    async def _receive_start(self) -> protocol.SessionStart:
        within = self._settings.start_timeout
        try:
            async with asyncio.timeout(within):
                message = await self._receive(self._settings.max_start_bytes)
                while isinstance(message, protocol.SessionPing):
                    await self._send({"type": "session.pong"})
                    message = await self._receive(self._settings.max_start_bytes)
        except TimeoutError:
            raise PafuError("start_timeout", f"no session.start within {within:g} s of connecting") from None
        if not isinstance(message, protocol.SessionStart):
            raise PafuError("invalid_message", f"{message.type} came before session.start", "type")
        return message

    async def _serve(self, start: protocol.SessionStart) -> None:
        """Stream and listen at once; whichever ends first ends the other."""
        order = self._order(start)
        self._watch.asked()
        self._lead_limit = order.lead_seconds
        stream = asyncio.create_task(self._stream(start, order), name=f"{self.id}-stream")
        listen = asyncio.create_task(self._listen(), name=f"{self.id}-listen")
        try:
            await asyncio.wait((stream, listen), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stream, listen):
                task.cancel()
            outcomes = await asyncio.gather(stream, listen, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def _order(self, start: protocol.SessionStart) -> messages.Open:
        order = protocol.check_start(start, self._spec, self._settings)
        seed = secrets.randbelow(2**31) if start.seed is None else start.seed
        return messages.Open(
            session=self.id,
            prompt=order.prompt,
            seed=seed,
            lead_seconds=order.lead_seconds,
            cache=order.cache,
            pictures=order.pictures,
            memory=order.memory,
        )

    async def _open(self, order: messages.Open) -> EngineSession | None:
        """The line to the worker, or None when the viewer (or the server) stopped before there was one."""
        self.state = State.OPENING
        opening, stopped = asyncio.create_task(self._open_line(order)), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((opening, stopped), return_when=asyncio.FIRST_COMPLETED)
            return None if self._stop.is_set() else await opening
        finally:
            stopped.cancel()
            opening.cancel()
            await asyncio.gather(opening, stopped, return_exceptions=True)

    async def _open_line(self, order: messages.Open) -> EngineSession:
        """The opened line; a worker that dies before the session has begun is replaced without a word, once."""
        await self._engine.wait_ready(self._settings.ready_wait)
        try:
            self._line = await self._engine.open(order)
        except PafuError as error:
            if error.kind.code != "worker_failed":
                raise
            await self._engine.wait_ready(self._settings.ready_wait)
            self._line = await self._engine.open(order)
        return self._line

    # ---- streaming

    async def _stream(self, start: protocol.SessionStart, order: messages.Open) -> None:
        line = await self._open(order)
        if line is None:
            return await self._done(0, "stopped")
        self._watch.opened()
        await self._send(self._video_start(start, order, line.mime))
        self.state = State.STREAMING
        logs.prompt(log, order.prompt)
        log.info("%s: streaming, seed %d, cache %s", self.id, order.seed, order.cache.policy)
        events = line.events()
        while True:
            event = await self._next(events)
            match event:
                case messages.Fragment():
                    await self._send_fragment(event)
                case messages.Rejected():
                    self._pending.discard(event.event_id)
                    self._watch.refused(event.event_id)
                    refused = PafuError("interaction_failed", event.message, "interaction.event")
                    await self._send({**refused.wire_message(), "event_id": event.event_id})
                case messages.Ended():
                    if event.code is not None:
                        raise PafuError(event.code, event.message)
                    return await self._done(event.chunks, event.reason)

    async def _next(self, events: Any) -> messages.Fragment | messages.Rejected | messages.Ended:
        """The worker's next event. Raises PafuError viewer_stalled when the viewer is why there is none."""
        waiting = asyncio.ensure_future(anext(events))
        try:
            while True:
                done, _ = await asyncio.wait((waiting,), timeout=self._settings.stall_timeout)
                if done:
                    event: messages.Fragment | messages.Rejected | messages.Ended = waiting.result()
                    return event
                if self._reported is not None and self._sent_seconds - self._reported >= self._lead_limit:
                    raise self._stalled()
        finally:
            waiting.cancel()

    def _stalled(self) -> PafuError:
        within = self._settings.stall_timeout
        return PafuError("viewer_stalled", f"the viewer took no video for {within:g} s; start a new session to go on")

    async def _send_fragment(self, fragment: messages.Fragment) -> None:
        for event_id in fragment.started:
            self._pending.discard(event_id)
            applied = {"type": "session.interaction.applied", "event_id": event_id, "chunk_index": fragment.index}
            await self._send(applied)
        metadata = json.dumps(chunk_metadata(fragment))
        try:
            with self._watch.sending(fragment):
                async with asyncio.timeout(self._settings.stall_timeout), self._writing:
                    await self._socket.send_text(metadata)
                    await self._socket.send_bytes(fragment.data)
        except TimeoutError:
            raise self._stalled() from None
        self._sent_seconds += fragment.pictures / self._spec.fps
        if self._line is not None:
            await self._line.delivered(fragment.index)

    def _video_start(self, start: protocol.SessionStart, order: messages.Open, mime: str) -> dict[str, Any]:
        spec = self._spec
        config = {
            "model": spec.name,
            "prompt": order.prompt,
            "width": spec.width,
            "height": spec.height,
            "fps": spec.fps,
            "num_frames": start.num_frames,
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
        return {
            "type": "video.start",
            "request_id": self._request_id,
            "session_id": self.id,
            "format": "m4s",
            "mime": mime,
            "config": config,
            "unknown_words": protocol.unknown_words(order.prompt, spec),
        }

    # ---- listening

    async def _listen(self) -> None:
        """Handle the viewer's messages until it leaves (WebSocketDisconnect) or goes too far (PafuError)."""
        while True:
            try:
                await self._handle(await self._receive(self._settings.max_control_bytes))
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

    async def _handle(self, message: protocol.ClientMessage) -> None:
        match message:
            case protocol.SessionPing():
                await self._send({"type": "session.pong"})
            case protocol.SessionPlayback():
                self._reported = message.position_seconds
                self._watch.playhead(message.position_seconds)
                if self._line is not None:
                    await self._line.playhead(message.position_seconds)
            case protocol.SessionStop():
                self._stop.set()
                if self._line is not None:
                    await self._line.finish()
            case protocol.SessionInteraction():
                await self._interact(message.interaction)
            case protocol.SessionStart():
                raise PafuError("invalid_message", "the session has begun; open another connection for another", "type")

    async def _interact(self, interaction: protocol.Interaction) -> None:
        prompt, camera = protocol.check_event(interaction, self._spec)
        if self._line is None or self.state is not State.STREAMING:
            raise PafuError("interaction_failed", "wait for video.start before you change anything", "type")
        event_id = self._event_id(interaction)
        most = self._settings.max_pending_interactions
        if len(self._pending) >= most:
            raise PafuError("too_many_interactions", f"{most} changes wait for the next chunk already; send fewer")
        self._pending.add(event_id)
        self._watch.changed(event_id)
        unknown = protocol.unknown_words(prompt or "", self._spec)
        await self._send({"type": "session.interaction.queued", "event_id": event_id, "unknown_words": unknown})
        change = messages.Interact(
            session=self.id,
            event_id=event_id,
            prompt=prompt,
            camera=camera,
            chunks=interaction.transition_chunks or 1,
        )
        await self._line.interact(change)

    def _event_id(self, interaction: protocol.Interaction) -> str:
        self._events += 1
        event_id = interaction.event_id or f"evt_{self.id[5:]}_{self._events}"
        if event_id in self._pending:
            reason = f"event_id {event_id!r} still waits for its chunk; use a new id for every event"
            raise PafuError("event_id_conflict", reason, "interaction.event_id")
        return event_id

    async def _receive(self, limit: int) -> protocol.ClientMessage:
        received = await self._socket.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1005), received.get("reason"))
        text = received.get("text")
        if text is None:
            raise PafuError("binary_message", "viewers speak JSON text; a binary message means nothing here")
        if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
            raise PafuError("message_too_large", f"the message is longer than the {limit} bytes allowed here")
        return protocol.parse(text)

    # ---- ending

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._writing:
            await self._socket.send_text(json.dumps(message))

    async def _done(self, chunks: int, reason: str) -> None:
        stopped = reason != "complete"
        reason = "server_shutdown" if self._shutting_down else reason
        self._watch.over(reason)
        done = {"type": "session.done", "session_id": self.id, "chunks": chunks, "stopped": stopped, "reason": reason}
        await self._end(errors.RESTART if self._shutting_down else errors.NORMAL, done, reason)

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


def _close_reason(text: str) -> str:
    """A close frame holds at most 123 bytes of reason."""
    return text.encode()[:120].decode(errors="ignore")


def memory_picture(kept: messages.KeptTokens) -> dict[str, Any]:
    """Kept tokens for JSON: bytes as base64, rows x columns of them for each of ``latents``."""
    return {
        "rows": kept.rows,
        "columns": kept.columns,
        "latents": kept.latents,
        "kept": base64.b64encode(kept.kept).decode(),
        "salience": base64.b64encode(kept.salience).decode(),
    }


def chunk_metadata(fragment: messages.Fragment) -> dict[str, Any]:
    """The message that goes before a fragment's bytes."""
    stats = {
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
        "byte_length": len(fragment.data),
        "started_event_ids": fragment.started,
        "active_event_ids": fragment.active,
        "completed_event_ids": fragment.completed,
        "stats": stats,
    }
