"""The HTTP requests of a live client."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from pafu_client.errors import PafuError
from pafu_client.options import http_address, key_headers
from pafu_client.proxies import blamed, http_client

POLL_SECONDS = 0.5


async def models(url: str, api_key: str | None = None) -> list[dict[str, Any]]:
    """The models of the server at ``url`` and their vocabularies. Raises PafuError."""
    async with http_client(http_address(url), timeout=10, headers=key_headers(api_key)) as client:
        try:
            reply = await client.get("/v1/models")
        except httpx.HTTPError as error:
            raise PafuError("connect_failed", f"no answer from {url}: {blamed(url, error)}", retryable=True) from None
    if reply.status_code != 200:
        raise PafuError.from_http(reply.status_code, reply.content)
    data: list[dict[str, Any]] = reply.json()["data"]
    return data


async def wait_until_ready(url: str, timeout: float = 60.0) -> None:
    """Return when the server at ``url`` can start a stream. Raises PafuError ``not_ready`` after ``timeout``
    seconds."""
    give_up = time.monotonic() + timeout
    async with http_client(http_address(url), timeout=10) as client:
        while True:
            try:
                reply = await client.get("/readyz")
                if reply.status_code == 200:
                    return
                seen = f"its /readyz says {reply.status_code}: {reply.text[:200]}"
            except httpx.HTTPError as error:
                seen = f"no answer ({blamed(url, error)})"
            if time.monotonic() > give_up:
                raise PafuError("not_ready", f"{url} was not ready within {timeout:g} s; {seen}", retryable=True)
            await asyncio.sleep(POLL_SECONDS)
