"""Promise: an unknown caller gets nothing: every route and socket needs a key, except a short list."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
import websockets
from starlette.routing import Mount, WebSocketRoute

from server.config import Settings
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.errors import ERRORS
from server.http.app import create_app

KEY = "the-key-of-the-tests-0123456789"
BEARER = {"authorization": f"Bearer {KEY}"}
OPEN = {"/healthz", "/readyz", "/v1/realtime/video"}  # besides the files of the page; the last only as no socket


@pytest.fixture
async def guarded(serve):
    return await serve(api_keys=KEY)


def http(server: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120, **options)


def filled(path: str) -> str:
    """The path with values for its parameters."""
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))


def flat(routes) -> list[Any]:
    """All routes, including those of included routers."""
    found = []
    for route in routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        found += flat(inner) if inner and not isinstance(route, Mount) else [route]
    return found


async def test_every_route_and_socket_of_the_app_refuses_callers_without_a_key(guarded) -> None:
    routes = flat(guarded.app.routes)
    assert {"/v1/models", "/health", "/v1/realtime/client_secrets", "/v1/realtime/video"} <= {r.path for r in routes}
    async with http(guarded) as client:
        for route in routes:
            if isinstance(route, WebSocketRoute) or not getattr(route, "methods", None):
                continue
            for method in route.methods:
                reply = await client.request(method, filled(route.path))
                is_open = (route.path in OPEN or "{token}" in route.path) and method in ("GET", "HEAD")
                assert (reply.status_code != 401) == is_open, (method, route.path, reply.status_code)
    for route in routes:
        if not getattr(route, "methods", None) and not isinstance(route, Mount):
            assert await handshake(guarded, filled(route.path)) == 401, route.path


async def handshake(server: Any, path: str, **options: Any) -> int:
    """The status of a WebSocket handshake; 101 when it is accepted."""
    try:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}{path}", proxy=None, **options):
            return 101
    except websockets.InvalidStatus as refused:
        assert set(json.loads(refused.response.body)["error"]) == {"message", "type", "code", "param"}
        return refused.response.status_code


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "NONSENSE"])
@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/metrics", "/openapi.json", "/v1/videos", "//healthz"])
async def test_what_does_not_exist_is_not_told_to_who_shows_no_key(keyed_app, method, path) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(keyed_app), base_url="http://localhost") as client:
        assert (await client.request(method, f"http://localhost{path}")).status_code == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/app.js", "/healthz"])
async def test_public_paths_are_public_to_read_only(keyed_app, method, path) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(keyed_app), base_url="http://localhost") as client:
        assert (await client.request(method, path)).status_code == 401


@pytest.fixture
def keyed_app():
    settings = Settings(model="test-tiny", api_keys=KEY, public_paths="/version")
    return create_app(settings, LocalEngine(settings, slots_for(settings)))


async def test_the_page_and_what_the_operator_names_are_public(keyed_app) -> None:
    from server.http.page import PAGE

    async with httpx.AsyncClient(transport=httpx.ASGITransport(keyed_app), base_url="http://localhost") as client:
        for file in PAGE.rglob("*"):
            if file.is_file() and file.suffix != ".ts":
                assert (await client.get("/" + file.relative_to(PAGE).as_posix())).status_code == 200
        assert (await client.get("/")).status_code == 200
        assert (await client.request("GET", "/v1/models")).status_code == 401
    assert "/version" in keyed_app.state.front.access.public


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_key"),
        ("Bearer wrong-key-0123456789", "invalid_key"),
        ("Bearer", "invalid_key"),
        (f"Basic {KEY}", "invalid_key"),
        (KEY, "invalid_key"),
        (f"Bearer {KEY}x", "invalid_key"),
        (f"Bearer {KEY[:-1]}", "invalid_key"),
        ("Bearer \xff\xfe", "invalid_key"),
    ],
)
async def test_a_wrong_key_is_refused_over_http_and_before_a_socket_is_accepted(guarded, header, code) -> None:
    headers = {} if header is None else {"authorization": header}
    async with http(guarded) as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        reply = await client.get("/v1/models", headers=raw)
    assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    assert reply.json()["error"] | {"message": "", "param": None} == {
        "message": "",
        "type": "authentication_error",
        "code": code,
        "param": None,
    }
    assert KEY not in reply.text
    if header is None or header.isascii():
        assert await handshake(guarded, "/v1/realtime/video", additional_headers=headers) == 401


async def test_a_key_opens_http_and_the_live_socket(guarded, viewer_of) -> None:
    async with http(guarded, headers=BEARER) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.get("/v1/nothing")).status_code == 404
    async with guarded.connect(additional_headers=BEARER) as live:
        assert (await viewer_of(live).start(num_frames=1))["type"] == "video.start"
        assert live.subprotocol is None


@pytest.mark.parametrize("prefix", ["pafu-ticket.", "openai-insecure-api-key."])
async def test_a_browser_mints_a_ticket_and_opens_one_socket_with_it(guarded, viewer_of, prefix) -> None:
    async with http(guarded, headers=BEARER) as client:
        reply = await client.post("/v1/realtime/client_secrets")
        ticket = reply.json()["value"]
        assert reply.status_code == 200 and reply.json()["expires_at"] > 0 and ticket not in KEY
        assert (await client.get("/v1/models", headers={"authorization": f"Bearer {ticket}"})).status_code == 401
    offered = [f"{prefix}{ticket}", "pafu"]
    origin = f"http://127.0.0.1:{guarded.port}"
    async with guarded.connect(subprotocols=offered, origin=origin) as live:
        assert live.subprotocol == "pafu"  # never the one with the ticket
        assert (await viewer_of(live).start(num_frames=1))["type"] == "video.start"
    assert await handshake(guarded, "/v1/realtime/video", subprotocols=offered) == 401


async def test_a_ticket_opens_nothing_for_a_page_from_elsewhere_and_is_not_used_up_by_it(guarded) -> None:
    async with http(guarded, headers=BEARER) as client:
        ticket = (await client.post("/v1/realtime/client_secrets", json={})).json()["value"]
    offered = ["pafu", f"pafu-ticket.{ticket}"]
    evil = await handshake(guarded, "/v1/realtime/video", subprotocols=offered, origin="https://evil.example")
    assert evil == 403
    assert await handshake(guarded, "/v1/realtime/video", subprotocols=offered) == 101


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, 200, None),
        ({"expires_after": {"seconds": 61}}, 400, "expires_after.seconds"),
        ({"expires_after": {"seconds": 0}}, 400, "expires_after.seconds"),
        ({"expires_after": {"seconds": 5, "anchor": "now"}}, 400, "expires_after.anchor"),
        ({"session": {}}, 400, "session"),
        ([], 400, None),
    ],
)
async def test_a_tickets_life_is_the_callers_choice_within_the_servers(keyed_app, body, status, param) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(keyed_app), base_url="http://localhost") as client:
        reply = await client.post("/v1/realtime/client_secrets", json=body, headers=BEARER)
    assert reply.status_code == status, reply.text
    if status != 200:
        assert reply.json()["error"]["param"] == param


async def test_a_key_gets_its_requests_a_minute_over_http_and_sockets_together(serve) -> None:
    server = await serve(api_keys=KEY, requests_per_minute_per_key=2)
    async with http(server, headers=BEARER) as client:
        assert (await client.get("/version")).status_code == 200
        assert (await client.get("/version")).status_code == 200
        refused = await client.get("/version")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limited"
        assert (await client.get("/healthz")).status_code == 200
    assert await handshake(server, "/v1/realtime/video", additional_headers=BEARER) == 429


PATHS = [
    "..",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%2fetc%2fpasswd",
    "x%00.mp4",
    "C:%5cx",
    "~root",
]


async def test_no_route_takes_a_path_for_a_name(server) -> None:
    """Ids are looked up, never opened: a path instead of an id is an unknown resource."""
    routes = [route for route in flat(server.app.routes) if getattr(route, "methods", None)]
    known = {"", *(route.path for route in routes)}
    async with http(server) as client:
        for route in routes:
            for name in PATHS:
                path = "/".join(name if part.startswith("{") else part for part in route.path.split("/"))
                sent = client.build_request("GET", path).url.path.rstrip("/")  # a client itself resolves ..
                if path != route.path and sent not in known:
                    reply = await client.request(sorted(route.methods)[0], path)
                    assert 400 <= reply.status_code < 500, (path, reply.status_code)
                    assert "root:" not in reply.text


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_its_limit_is_refused_and_not_kept(serve, declared) -> None:
    server = await serve(max_body_bytes=2048)
    async with http(server) as client:
        body = json.dumps({"padding": "x" * 4096}).encode()

        async def pieces():
            for start in range(0, len(body), 512):
                yield body[start : start + 512]

        reply = await client.post(
            "/v1/realtime/client_secrets",
            content=body if declared else pieces(),
            headers={"content-type": "application/json"},
        )
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_body_that_never_ends_ends_the_request(serve) -> None:
    server = await serve(body_timeout=0.2)
    head = "POST /v1/realtime/client_secrets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
    async with asyncio.timeout(120):
        answer = await reader.read(4096)
    writer.close()
    assert b" 408 " in answer.splitlines()[0] and b"body_timeout" in answer


@pytest.mark.parametrize("path", ["/nothing", "/", "/app.js", "/v1/models"])
async def test_a_socket_that_does_not_exist_is_refused_and_disturbs_nothing(server, path, caplog) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}{path}", proxy=None):
            pass
    assert refused.value.response.status_code in (403, 404)
    assert "Traceback" not in caplog.text


def test_listening_beyond_this_machine_needs_keys_or_a_clear_word() -> None:
    from server.config import ConfigError
    from server.http.listener import listen

    for host in ("0.0.0.0", "::", socket.gethostbyname(socket.gethostname())):
        if host.startswith("127."):
            continue
        with pytest.raises(ConfigError, match="without API keys.*pafu keys add.*--allow-anonymous"):
            listen(host, 0)
    listen("0.0.0.0", 0, guarded=True).close()
    for host in ("127.0.0.1", "localhost", "127.1.2.3"):
        listen(host, 0).close()


def test_every_error_has_a_status_that_says_who_is_at_fault() -> None:
    for kind in ERRORS.values():
        assert 400 <= kind.status < 600
        assert (kind.type == "authentication_error") == (kind.status == 401)
