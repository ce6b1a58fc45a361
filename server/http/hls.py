"""Live sessions for players that take no WebSocket: low-latency HLS, opened by the token in the address."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from server.live.hls_output import PLAYLIST, HlsOutputs

ROUTE = "/v1/live/{session_id}/hls/{token}"
PLAYLIST_TYPE, VIDEO_TYPE = "application/vnd.apple.mpegurl", "video/mp4"
AS_IT_STANDS, FOR_EVER = "no-cache", "private, max-age=31536000, immutable"
BYTES = {"schema": {"type": "string", "format": "binary"}}
Number = Annotated[int | None, Query(ge=0, le=2**53)]


def replies(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: BYTES}}}


def routes(outputs: HlsOutputs) -> APIRouter:
    """Beneath /v1/live, where the guard asks for no key (server.access.gate)."""
    router = APIRouter()

    @router.head(f"{ROUTE}/{PLAYLIST}", include_in_schema=False)
    @router.get(f"{ROUTE}/{PLAYLIST}", response_class=Response, responses=replies(PLAYLIST_TYPE))
    async def playlist(
        session_id: str,
        token: str,
        segment: Annotated[Number, Query(alias="_HLS_msn")] = None,
        part: Annotated[Number, Query(alias="_HLS_part")] = None,
    ) -> Response:
        """The media playlist; with ``_HLS_msn`` (and ``_HLS_part``) as soon as it has them."""
        text = await outputs.find(session_id, token).playlist(segment, part)
        return Response(text, headers={"cache-control": AS_IT_STANDS}, media_type=PLAYLIST_TYPE)

    @router.head(f"{ROUTE}/{{name}}", include_in_schema=False)
    @router.get(f"{ROUTE}/{{name}}", response_class=Response, responses=replies(VIDEO_TYPE))
    async def file(session_id: str, token: str, name: str) -> Response:
        """What the playlist names: ``init.mp4``, segments and parts."""
        data = await outputs.find(session_id, token).file(name)
        return Response(data, headers={"cache-control": FOR_EVER}, media_type=VIDEO_TYPE)

    return router
