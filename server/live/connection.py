"""One viewer's connection: opens, resumes or watches a live session (server.live.session), streams it, and ends.

While streaming, ``Delivery`` sends and ``Steering`` receives. An error before video.start ends the connection. Unless
the connection ends with session.stop, its session can be resumed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from model.spec import ModelSpec
from server.access.limits import Caller
from server.config import Settings
from server.errors import PafuError
from server.ipc.messages import Interact, Open
from server.live import client_messages
from server.live.delivery import Admitted, Delivery
from server.live.registry import SessionRegistry
from server.live.server_messages import Error, SessionPong
from server.live.steering import Steering
from server.live.viewer_socket import ViewerSocket
from server.media import picture
from server.telemetry import logs
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.session")


class ViewerConnection:
    """Serves one viewer's WebSocket from accept to close."""

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
        self._socket = ViewerSocket(websocket)
        self.caller = caller
        self._sessions, self._spec, self._settings = sessions, spec, settings
        self._admitted: Admitted | None = None
        self._revoked = False
        self._request_id: str = websocket.state.request_id
        self._metrics = observer.viewer(self._request_id, websocket.headers)

    def revoke(self) -> None:
        """End the connection because its key was removed; the session can be resumed, as after any lost connection."""
        self._revoked = True
        if self._admitted is not None:
            self._admitted.session.dismiss(self._admitted.subscriber, revoked())

    async def run(self) -> None:
        """Serve the viewer; returns when the socket is closed and the viewer has left the session."""
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
            await self._fail(PafuError("internal_error", "internal server error; see the server's log"))
        finally:
            self._metrics.over("viewer_left")  # no effect if the reason was already recorded
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
            raise PafuError("invalid_message", f"{message.type} arrived before session.start", "type")
        return message

    async def _admit(self, first: client_messages.FirstMessage) -> Admitted:
        """Open, resume or watch the session that the first message requests. Raises PafuError."""
        if self._revoked:
            raise revoked()
        match first:
            case client_messages.SessionStart():
                pictured = first.image is not None or first.image_reference is not None
                order = await (picture.one_at_a_time if pictured else asyncio.to_thread)(self._order, first)
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
        """The changes listed in session.start. Raises PafuError."""
        changes = [
            client_messages.change_of(interaction, self.id, f"evt_start_{place}", self._spec)
            for place, interaction in enumerate(start.interactions)
        ]
        if len({change.event_id for change in changes}) < len(changes):
            raise PafuError("event_id_conflict", "two interactions have the same event_id", "interactions")
        if len(changes) > self._settings.max_pending_interactions:
            most = self._settings.max_pending_interactions
            raise PafuError("too_many_interactions", f"interactions has {len(changes)} entries; allowed: 0 to {most}")
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
        """Run delivery and steering concurrently; when one ends, cancel the other."""
        delivery = Delivery(self._socket, admitted, self._metrics, self._spec, self._settings, self._request_id)
        steering = Steering(
            self._socket,
            admitted.session,
            admitted.subscriber,
            self._metrics,
            self._spec,
            self._settings,
            streaming=lambda: delivery.streaming,
        )
        stream = asyncio.create_task(delivery.run(steering.refused), name=f"{self.id}-stream")
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

    # ---- ending

    async def _fail(self, error: PafuError) -> None:
        self._metrics.failed(error.kind.code)
        log.info("%s: %s", self.id, error.message)
        await self._socket.end(error.kind.close, Error.of(error), error.message)


def revoked() -> PafuError:
    """The error for a viewer whose key was removed or has expired."""
    return PafuError(
        "invalid_key", "the key of this connection was removed or has expired; ask the operator for another"
    )
