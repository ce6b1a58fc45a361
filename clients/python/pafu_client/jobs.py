"""Videos as jobs, for asyncio: create, wait, download, extend."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import httpx

from pafu_client.errors import PafuError
from pafu_client.opening import delays
from pafu_client.options import VideoOptions, http_address, key_headers, video_order
from pafu_client.proxies import http_client

POLL_SECONDS = 1.0  # if the server does not say when to poll again
TIMEOUT = 60.0
Variant = Literal["video", "thumbnail", "spritesheet", "loop"]


@dataclass(frozen=True)
class Video:
    """The state of a job. ``raw`` has all fields, including those unknown to this version.

    status: "queued", "in_progress", "completed" or "failed". progress: percent. seconds: length of the whole video.
    error: why it failed.
    """

    id: str
    status: str
    progress: int
    prompt: str
    seconds: float
    seed: int
    error: PafuError | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def over(self) -> bool:
        """Whether the job is completed or failed."""
        return self.status in ("completed", "failed")

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Video:
        """Raises PafuError ``bad_message`` for an invalid video."""
        try:
            error = body.get("error")
            return cls(
                id=str(body["id"]),
                status=str(body["status"]),
                progress=int(body.get("progress") or 0),
                prompt=str(body.get("prompt") or ""),
                seconds=float(body.get("seconds") or 0),
                seed=int(body.get("seed") or 0),
                error=PafuError.from_wire(error) if error else None,
                raw=body,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PafuError("bad_message", f"the server sent an invalid video: {error!r}") from None


class Jobs:
    """The caller's videos on the server at ``url``: ``async with Jobs(url) as jobs: ...``.

    api_key: default: the variable PAFU_API_KEY. patience: how many seconds to retry while the server does not answer (a
    restart, a network failure); a repeated order creates only one video. All methods raise PafuError.
    """

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 60.0) -> None:
        self._patience = patience
        self._http = http_client(http_address(url), timeout=TIMEOUT, headers=key_headers(api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def create(self, prompt: str, **options: Unpack[VideoOptions]) -> Video:
        """Create a video."""
        return await self._order("/v1/videos", video_order(prompt, options))

    async def extend(self, video: Video | str, prompt: str, *, seconds: float = 4.0) -> Video:
        """Extend a completed video by ``seconds``: returns a new video, whose length is the total."""
        body = {"video": {"id": _id(video)}, "prompt": prompt, "seconds": seconds}
        return await self._order("/v1/videos/extensions", body)

    async def remix(self, video: Video | str, prompt: str) -> Video:
        """Create a video with the same options, including the seed, and another prompt."""
        return await self._order(f"/v1/videos/{_id(video)}/remix", {"prompt": prompt})

    async def get(self, video: Video | str) -> Video:
        """The video's current state."""
        return Video.from_wire((await self._ask("GET", f"/v1/videos/{_id(video)}")).json())

    async def list(
        self, *, limit: int = 20, after: Video | str | None = None, oldest_first: bool = False
    ) -> tuple[Video, ...]:
        """Up to ``limit`` videos (1 to 100) after ``after``, newest first."""
        query = {"limit": str(limit), "order": "asc" if oldest_first else "desc"}
        if after is not None:
            query["after"] = _id(after)
        reply = await self._ask("GET", "/v1/videos", params=query)
        return tuple(Video.from_wire(body) for body in reply.json()["data"])

    async def delete(self, video: Video | str) -> None:
        """Delete the video; a running job stops."""
        await self._checked(await self._once("DELETE", f"/v1/videos/{_id(video)}"))

    async def wait(
        self, video: Video | str, *, on_progress: Callable[[Video], None] | None = None, timeout: float | None = None
    ) -> Video:
        """Wait for the video to complete. ``on_progress`` is called whenever status or progress change.

        Raises the job's error if it failed, and PafuError ``timeout`` after ``timeout`` seconds (the job continues).
        """
        give_up, told = time.monotonic() + (timeout if timeout is not None else float("inf")), None
        while True:
            reply = await self._ask("GET", f"/v1/videos/{_id(video)}")
            now = Video.from_wire(reply.json())
            if on_progress is not None and (now.status, now.progress) != told:
                told = (now.status, now.progress)
                on_progress(now)
            if now.error is not None:
                raise now.error
            if now.over:
                return now
            if time.monotonic() > give_up:
                raise PafuError(
                    "timeout", f"{now.id} is still {now.status} after {timeout:g} s; the job continues", retryable=True
                )
            await asyncio.sleep(float(reply.headers.get("openai-poll-after-ms", 1000 * POLL_SECONDS)) / 1000)

    async def content(self, video: Video | str, variant: Variant = "video") -> bytes:
        """The bytes of a completed video (MP4), its thumbnail (WebP), its contact sheet (JPEG) or a short loop
        (animated WebP)."""
        return b"".join([piece async for piece in self._pieces(video, variant)])

    async def download(self, video: Video | str, path: str | os.PathLike[str], variant: Variant = "video") -> Path:
        """Write the content to a file, completely or not at all; a broken download continues where it broke."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            with part.open("wb") as file:
                async for piece in self._pieces(video, variant):
                    file.write(piece)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return target

    # ---- requests

    async def _order(self, path: str, body: Mapping[str, Any]) -> Video:
        key = {"Idempotency-Key": f"pafu-client-{uuid.uuid4().hex}"}  # allows repeating a request whose answer was lost
        return Video.from_wire((await self._ask("POST", path, json=body, headers=key)).json())

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request, and repeat it for ``patience`` seconds while there is no answer."""
        give_up = time.monotonic() + self._patience
        for delay in delays():
            await asyncio.sleep(delay)
            try:
                return await self._checked(await self._once(method, path, **request))
            except PafuError as error:
                again = error.retryable if method == "GET" else error.code == "connect_failed"
                if not again or time.monotonic() > give_up:
                    raise
        raise AssertionError("delays are endless")

    async def _once(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise self._silent(error) from None

    async def _pieces(self, video: Video | str, variant: Variant) -> AsyncIterator[bytes]:
        path, got, give_up = f"/v1/videos/{_id(video)}/content", 0, time.monotonic() + self._patience
        for delay in delays():
            await asyncio.sleep(delay)
            ask = {"Range": f"bytes={got}-"} if got else {}
            try:
                async with self._http.stream("GET", path, params={"variant": variant}, headers=ask) as reply:
                    await self._checked(reply, 206 if got else 200)
                    async for piece in reply.aiter_bytes():
                        got, give_up = got + len(piece), time.monotonic() + self._patience
                        yield piece
                    return
            except httpx.HTTPError as error:
                if time.monotonic() > give_up:
                    raise self._silent(error) from None

    async def _checked(self, reply: httpx.Response, status: int = 200) -> httpx.Response:
        """Raises the server's error."""
        if reply.status_code != status:
            raise PafuError.from_http(reply.status_code, await reply.aread())
        return reply

    def _silent(self, error: httpx.HTTPError) -> PafuError:
        reason = str(error) or type(error).__name__
        return PafuError("connect_failed", f"no answer from {self._http.base_url}: {reason}", retryable=True)


def _id(video: Video | str) -> str:
    return video.id if isinstance(video, Video) else video
