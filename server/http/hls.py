"""Low-latency HLS routes for players without WebSocket support; the token in the URL gives access."""

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
    """Routes below /v1/live, which need no API key (server.access.gate)."""
    router = APIRouter()

    @router.head(f"{ROUTE}/{PLAYLIST}", include_in_schema=False)
    @router.get(f"{ROUTE}/{PLAYLIST}", response_class=Response, responses=replies(PLAYLIST_TYPE))
    async def playlist(
        session_id: str,
        token: str,
        segment: Annotated[Number, Query(alias="_HLS_msn")] = None,
        part: Annotated[Number, Query(alias="_HLS_part")] = None,
    ) -> Response:
        """Get the media playlist; with ``_HLS_msn`` and ``_HLS_part``, wait until it has that segment or part."""
        text = await outputs.find(session_id, token).playlist(segment, part)
        return Response(text, headers={"cache-control": AS_IT_STANDS}, media_type=PLAYLIST_TYPE)

    @router.head(f"{ROUTE}/{{name}}", include_in_schema=False)
    @router.get(f"{ROUTE}/{{name}}", response_class=Response, responses=replies(VIDEO_TYPE))
    async def file(session_id: str, token: str, name: str) -> Response:
        """Get a file named in the playlist: ``init.mp4``, a segment or a part."""
        data = await outputs.find(session_id, token).file(name)
        return Response(data, headers={"cache-control": FOR_EVER}, media_type=VIDEO_TYPE)

    return router
