"""Handles a viewer's messages while its stream runs: playhead, changes, pause, stop.

An invalid message gets an error reply; the stream survives up to ``max_bad_messages`` of them.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from model.spec import ModelSpec
from model.words.vocabularies import not_in_sight, unknown_words, warnings
from server.config import Settings
from server.errors import PafuError
from server.ipc.messages import Interact
from server.live import client_messages
from server.live.audience import Subscriber
from server.live.server_messages import (
    Error,
    InteractionQueued,
    InteractionRejected,
    SessionPaused,
    SessionPong,
    SessionResumed,
)
from server.live.session import LiveSession
from server.live.viewer_socket import ViewerSocket
from server.telemetry import logs
from server.telemetry.observer import ViewerMetrics

FATAL = ("binary_message", "message_too_large", "too_many_errors")


log = logging.getLogger("pafu.session")


class Steering:
    """The receiving half of a connection to a live session."""

    def __init__(
        self,
        socket: ViewerSocket,
        session: LiveSession,
        subscriber: Subscriber,
        metrics: ViewerMetrics,
        spec: ModelSpec,
        settings: Settings,
        streaming: Callable[[], bool],
    ) -> None:
        """``streaming``: whether video.start was sent. Before that, any error ends the connection."""
        self._socket, self._session, self._subscriber = socket, session, subscriber
        self._metrics, self._spec, self._settings = metrics, spec, settings
        self._streaming = streaming
        self._faulty_messages = 0
        self._unnamed_events = 0

    async def listen(self) -> None:
        """Handle messages until the viewer disconnects (WebSocketDisconnect) or a fatal error occurs (PafuError)."""
        bounds = client_messages.control_bounds(self._settings)
        while True:
            try:
                await self._handle(await self._socket.receive(bounds))
            except PafuError as error:
                if error.kind.code in FATAL or not self._streaming():
                    raise
                self._count_invalid(error)
                self._metrics.erred(error.kind.code)
                await self._socket.send(Error.of(error))

    def _count_invalid(self, error: PafuError) -> None:
        self._faulty_messages += 1
        if self._faulty_messages > self._settings.max_bad_messages:
            reason = f"{self._faulty_messages} invalid messages; the last: {error.message}"
            raise PafuError("too_many_errors", reason)

    async def _handle(self, message: client_messages.ClientMessage) -> None:
        match message:
            case client_messages.SessionPing():
                await self._socket.send(SessionPong())
            case client_messages.SessionPlayback():
                if self._subscriber.owner:
                    self._metrics.playhead(message.position_seconds)
                    await self._session.playhead(message.position_seconds)
            case client_messages.SessionStop():
                await self._stop()
            case client_messages.SessionInteraction():
                self._check_owner()
                await self._interact(message.interaction)
            case client_messages.SessionPause() | client_messages.SessionResume():
                self._check_owner()
                await self._pause(message)
            case client_messages.SessionStart() | client_messages.SessionWatch():
                raise PafuError("invalid_message", "this connection has its session; open another connection", "type")

    def _check_owner(self) -> None:
        if not self._subscriber.owner:
            raise PafuError("not_the_owner", "a watcher cannot steer; only the session's owner can", "type")

    async def _stop(self) -> None:
        """The owner ends the session; a watcher only disconnects itself."""
        if self._subscriber.owner:
            return await self._session.stop()
        self._session.dismiss(self._subscriber)

    async def _pause(self, message: client_messages.SessionPause | client_messages.SessionResume) -> None:
        paused = isinstance(message, client_messages.SessionPause)
        if isinstance(message, client_messages.SessionResume) and message.session_id is not None:
            raise PafuError("invalid_message", "this connection has its session; open another to resume one", "type")
        self._metrics.paused(paused)
        await self._session.pause(paused)
        reply = SessionPaused if paused else SessionResumed
        await self._socket.send(reply(session_id=self._session.id, next_chunk_index=self._session.next_index))

    async def _interact(self, interaction: client_messages.Interaction) -> None:
        """Queue a change, or reject it under its event id."""
        try:
            change = self._change(interaction)
            await self._session.expect(change)
            self._metrics.changed(change.event_id)
        except PafuError as error:
            if interaction.event_id is None:
                raise
            await self.reject(interaction.event_id, error)
            self._count_invalid(error)
            return await self._socket.send(Error.of(error, interaction.event_id))
        if change.prompt is not None:
            logs.prompt(log, change.prompt)
        unknown, told = self._words_left_out(change.prompt)
        await self._socket.send(InteractionQueued(event_id=change.event_id, unknown_words=unknown, warnings=told))
        await self._session.hand_over_changes()

    def _words_left_out(self, prompt: str | None) -> tuple[list[str], list[str]]:
        """Unknown words of a new prompt, and a warning for each thing that will not be in the picture."""
        if prompt is None:
            return [], []
        unseen = not_in_sight(self._session.told, prompt, self._spec)
        return unknown_words(prompt, self._spec), unseen + warnings(prompt, self._spec)

    def _change(self, interaction: client_messages.Interaction) -> Interact:
        unnamed = f"evt_{secrets.token_hex(4)}_{self._unnamed_events}"
        change = client_messages.change_of(interaction, self._session.id, unnamed, self._spec)
        if not self._streaming():
            raise PafuError("interaction_failed", "wait for video.start before sending changes", "type")
        self._unnamed_events += 1
        return change

    async def reject(self, event_id: str, error: PafuError) -> None:
        """Report that a change was rejected. Before video.start, raises ``error`` instead."""
        if not self._streaming():
            raise error
        await self._socket.send(InteractionRejected.of(event_id, error))

    async def refused(self, event_id: str, message: str) -> None:
        """Report that the model refused a change; the extra error message is for vLLM-Omni's clients."""
        self._metrics.refused(event_id)
        error = PafuError("interaction_failed", message, "interaction.event")
        await self.reject(event_id, error)
        await self._socket.send(Error.of(error, event_id))
