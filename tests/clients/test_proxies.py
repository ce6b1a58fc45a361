"""Promise: addresses of this machine bypass proxies; for others, an unusable proxy is named in one line."""

from __future__ import annotations

from typing import Any

import pytest
from pafu_client import PafuError, connect
from pafu_client.http import models
from pafu_client.proxies import in_between, is_here

UNUSABLE = ("socks5://127.0.0.1:9", "http://127.0.0.1:9", "ftp://127.0.0.1:9", "nonsense")


@pytest.fixture(params=UNUSABLE)
def proxied(monkeypatch, request):
    for name in ("ALL_PROXY", "HTTP_PROXY", "https_proxy", "WS_PROXY"):
        monkeypatch.setenv(name, request.param)
    monkeypatch.delenv("NO_PROXY", raising=False)


async def test_a_server_on_this_machine_is_reached_past_any_proxy(proxied, serve_script) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"first")
        await peer.done()

    url = await serve_script(script)
    async with connect(url, prompt="x") as stream:
        assert [chunk.data async for chunk in stream] == [b"first"]
    with pytest.raises(PafuError) as error:  # the script speaks WebSockets alone, and answers
        await models(url)
    assert "PROXY" not in error.value.message and "426" in error.value.message


async def test_a_proxy_that_cannot_be_used_is_told_by_its_variable(proxied) -> None:
    with pytest.raises(PafuError, match=r"ALL_PROXY.*unset it, or name the host in NO_PROXY") as error:
        await models("http://pafu.example")
    assert "\n" not in error.value.message
    with pytest.raises(PafuError, match=r"ALL_PROXY.*unset it, or name the host in NO_PROXY") as error:
        async with connect("http://pafu.example", prompt="a bar", open_timeout=20, resume_within=0):
            pass
    assert "\n" not in error.value.message


def test_who_is_here_and_who_passes_a_proxy_by(monkeypatch) -> None:
    assert all(map(is_here, ("http://localhost:8000", "ws://127.3.2.1", "http://[::1]:80", "http://a.localhost")))
    assert not any(map(is_here, ("http://pafu.example", "http://10.0.0.1:8000")))
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert in_between("http://inside.example") == "" and in_between("http://pafu.example") == "HTTP_PROXY"
