"""Single pictures of a stream."""

from __future__ import annotations

from typing import Unpack

from pafu_client.errors import PafuError
from pafu_client.http import models
from pafu_client.messages import Chunk
from pafu_client.options import StillOptions
from pafu_client.stream import connect


async def still(url: str, prompt: str, *, at_seconds: float = 0.0, **options: Unpack[StillOptions]) -> bytes:
    """The picture that a stream with these options shows at ``at_seconds``, as JPEG. Raises PafuError."""
    (model, *_) = await models(url, options.get("api_key"))
    pictures = 1 + max(0, round(at_seconds * model["fps"]))
    newest: Chunk | None = None
    async with connect(url, prompt=prompt, format="jpeg", num_frames=pictures, realtime=False, **options) as stream:
        async for chunk in stream:
            newest = chunk
    if newest is None:
        raise PafuError("bad_message", "the stream ended without a picture")
    return newest.pictures()[-1]
