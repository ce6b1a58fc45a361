"""``POST /v1/realtime/client_secrets``: tickets for browsers, compatible with OpenAI's ephemeral keys."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from server.access.gate import Access
from server.access.limits import caller_of
from server.errors import PafuError


class ExpiresAfter(BaseModel):
    """The lifetime of the unused ticket."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=1, strict=True)


class TicketRequest(BaseModel):
    """Optional request body."""

    model_config = ConfigDict(extra="forbid")

    expires_after: ExpiresAfter | None = None


class TicketReply(BaseModel):
    """``value`` opens one live WebSocket until ``expires_at`` (Unix time)."""

    value: str
    expires_at: int


def routes(access: Access, most_seconds: float) -> APIRouter:
    """``most_seconds``: the longest and default lifetime of a ticket."""
    router = APIRouter()

    @router.post("/v1/realtime/client_secrets")
    async def mint(request: Request, asked: TicketRequest | None = None) -> TicketReply:
        """Mint a ticket; present it as the WebSocket subprotocol ``pafu-ticket.VALUE`` in addition to ``pafu``."""
        seconds = most_seconds
        if asked is not None and asked.expires_after is not None:
            seconds = asked.expires_after.seconds
        if seconds > most_seconds:
            reason = f"a ticket lives at most {most_seconds:g} s; got {seconds}"
            raise PafuError("invalid_message", reason, "expires_after.seconds")
        ticket = access.tickets.mint(caller_of(request), seconds)
        return TicketReply(value=ticket.value, expires_at=int(time.time() + ticket.seconds))

    return router
