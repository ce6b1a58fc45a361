"""Promise: HTTP reports the server's true state, in the standard error format, and only to allowed hosts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import httpx
import pytest

from server.access.gate import Access
from server.bench.launch import get_json
from server.bench.target import BenchError, describe
from server.config import ConfigError, Settings
from server.engine import supervisor
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.errors import PafuError
from server.http import healthcheck
from server.http.app import create_app
from server.http.origin_check import Guard
from server.http.page import MIME_TYPES, PAGE
from server.states import EngineState


@pytest.fixture
async def client(server):
    await server.engine.settled()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        yield client


async def test_readyz_is_503_with_a_reason_until_a_warm_up_chunk_was_made(serve) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        early = await client.get("/readyz")
        assert (early.status_code, early.json()["status"]) == (503, "starting") and early.json()["reason"]
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/health")).status_code == 503
        await server.engine.settled()
        assert (await client.get("/readyz")).json() == {"status": "ready", "reason": ""}
        health = await client.get("/health")
        assert health.status_code == 200
        assert health.json()["workers"][0]["pid"] and health.json()["front"]["rss_bytes"] > 0


async def test_readyz_is_503_after_the_worker_died(server, client) -> None:
    os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
    while (reply := await client.get("/readyz")).status_code == 200:
        pass
    assert reply.json()["status"] == "restarting" and "SIGKILL" in reply.json()["reason"]


DEATHS = [("raise SystemExit('no such luck')", "no such luck"), ("import os; os.kill(os.getpid(), 37)", "signal 37")]


@pytest.mark.parametrize(("code", "reason"), DEATHS)
async def test_a_server_that_will_never_serve_again_fails_its_liveness_and_says_so_in_the_log(
    serve, monkeypatch, caplog, code, reason
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(supervisor, "LONGEST_DELAY", 0.0)
    server = await serve()
    server.engine.pool.members[0].supervisor.command = (sys.executable, "-c", code)
    await server.engine.settled()
    if (pid := server.engine.status().workers[0].pid) is not None:
        os.kill(pid, signal.SIGKILL)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        while server.engine.status().state is not EngineState.FAILED:
            assert (await client.get("/healthz")).status_code in (200, 503)
        alive = await client.get("/healthz")
    assert (alive.status_code, alive.json()["status"]) == (503, "failed") and alive.json()["reason"]
    assert caplog.records[-1].levelname == "ERROR" and "giving up on" in caplog.messages[-1]
    assert reason in caplog.messages[-1] and "failure 5 before it was ready" in alive.json()["reason"]


async def test_models_tells_what_a_client_needs_to_know(client) -> None:
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("test-tiny", "model", "pafu")
    assert (model["width"], model["height"], model["fps"], model["chunk_frames"]) == (128, 128, 16, 12)
    assert model["weights"] == "a test pattern" and model["formats"] == ["m4s", "h264", "jpeg"]
    assert model["max_prompt_chars"] == 2000 and model["limits"]["max_sessions"] == 4
    assert "house" in model["words"]["things"] and model["examples"]


async def test_version_names_server_and_python(client) -> None:
    body = (await client.get("/version")).json()
    assert body["version"] and body["versions"]["python"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("DELETE", "/v1/models", 405)])
async def test_http_errors_have_the_shape_that_clients_know(client, method, path, status) -> None:
    reply = await client.request(method, path)
    assert reply.status_code == status and reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "code", "param"} and path in error["message"]
    assert reply.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


async def test_the_page_and_all_its_files_come_with_their_types_and_are_revalidated(client, monkeypatch) -> None:
    monkeypatch.setattr("starlette.responses.guess_type", lambda path: ("text/plain", None))  # a registry that is wrong
    files = [path for path in PAGE.rglob("*") if path.is_file() and path.suffix != ".ts"]  # declarations, for tools
    assert PAGE / "index.html" in files
    for path in files:
        reply = await client.get("/" + path.relative_to(PAGE).as_posix())
        poster = f'content="{client.base_url}/poster.jpg"'.encode()  # whole, for those who make previews of links
        assert reply.status_code == 200, path
        assert reply.content.replace(poster, b'content="poster.jpg"') == path.read_bytes()
        assert reply.content.count(poster) == (2 if path.name == "index.html" else 0)
        assert reply.headers["content-type"] == MIME_TYPES[path.suffix], path
        assert reply.headers["cache-control"] == "no-cache" and reply.headers["etag"]
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    again = await client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/../server/http/app.py", "/..%2fserver%2fapp.py", "/%2e%2e/%2e%2e/etc/passwd"])
async def test_nothing_outside_the_page_is_served(client, path) -> None:
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("192.168.1.5:8000", True),
        ("pafu.localhost", True),
        ("video.example", True),
        ("VIDEO.example:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_only_own_host_names_are_served_so_that_dns_rebinding_fails(host, allowed) -> None:
    assert lets_in(Settings(allowed_hosts=("video.example",)), {"host": host}) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("https://192.168.1.5", "192.168.1.5", True),
        ("http://localhost:3000", "127.0.0.1:8000", True),
        ("https://page.example", "localhost", True),
        ("http://localhost:3000", "192.168.1.5:8000", False),
        ("http://192.168.1.5:9000", "192.168.1.5:8000", False),
        ("https://evil.example", "localhost", False),
        ("null", "localhost", False),
        ("chrome-extension://localhost", "localhost", False),
    ],
)
def test_only_own_pages_and_loopback_pages_may_open_a_socket(origin, host, allowed) -> None:
    assert lets_in(Settings(allowed_origins=("https://page.example/",)), {"host": host, "origin": origin}) is allowed


def lets_in(settings: Settings, headers: dict[str, str]) -> bool:
    from starlette.datastructures import Headers

    guard = Guard(None, settings, Access(settings, ()))  # type: ignore[arg-type]
    try:
        guard.check(Headers(headers), read_only=False)
    except PafuError as error:
        assert error.kind.status == 403
        return False
    return True


async def test_a_foreign_host_is_refused_over_http(client) -> None:
    reply = await client.get("/v1/models", headers={"host": "evil.example"})
    assert reply.status_code == 403 and reply.json()["error"]["code"] == "host_not_allowed"


def test_a_public_path_that_no_route_has_ends_the_start() -> None:
    for path in ("/version", "/metrics", "/v1/models/test-tiny"):
        settings = Settings(model="test-tiny", public_paths=path)
        create_app(settings, LocalEngine(settings, slots_for(settings)))
    settings = Settings(model="test-tiny", public_paths="/metricz")
    with pytest.raises(ConfigError, match="'/metricz' is not a path.*'/metrics'") as error:
        create_app(settings, LocalEngine(settings, slots_for(settings)))
    assert error.value.fields == ("public_paths",)


async def test_a_proxy_in_the_environment_is_not_used_for_the_own_server(server, monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PAFU_PORT", str(server.port))
    assert await asyncio.to_thread(healthcheck.main) == 0, "a container with it would never be healthy"
    assert (await asyncio.to_thread(get_json, f"{server.url}/version"))[0] == 200
    with pytest.raises(BenchError, match="HTTP_PROXY.*NO_PROXY"):
        await asyncio.to_thread(describe, "http://pafu.example")
