"""Promise: behind a proxy, in a cluster, or for a page of another origin, the server answers or names the missing
setting."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
import websockets

PAGE = "https://app.example.org"
LIVE = "/v1/realtime/video"


def http(server: Any, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120, headers=headers)


async def spoken(server: Any, text: str) -> bytes:
    """The whole reply to a hand-written request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(text.replace("\n", "\r\n").encode())
    async with asyncio.timeout(120):
        answer = await reader.read()
    writer.close()
    return answer


async def handshake(server: Any, path: str = LIVE, **headers: str) -> int:
    """Status of a handshake; 101 when it is accepted."""
    head = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items())
    upgrade = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\n{upgrade}Sec-WebSocket-Version: 13\n{head}\n".replace("\n", "\r\n").encode())
    async with asyncio.timeout(120):
        line = await reader.readline()
    writer.transport.abort()
    return int(line.split()[1])


async def test_probes_answer_by_any_name_and_by_none(server) -> None:
    for host in ("", "Host: pafu.default.svc:8000\n", "Host: 10.0.0.7\n"):
        answer = await spoken(server, f"GET /healthz HTTP/1.0\n{host}\n")
        assert answer.split()[1] == b"200", answer
    assert (await spoken(server, "GET /readyz HTTP/1.0\n\n")).split()[1] in (b"200", b"503")
    assert (await spoken(server, "GET /health HTTP/1.0\nHost: pafu.default.svc\n\n")).split()[1] == b"403"


FORWARDED = {"host": "video.example.org", "x-forwarded-host": "video.example.org", "x-forwarded-port": "8443"}


@pytest.mark.parametrize(("trusted", "status"), [("127.0.0.0/8", 101), ("10.0.0.0/8", 403), ("", 403)])
async def test_only_a_proxy_that_is_trusted_says_under_which_name_the_page_was_reached(serve, trusted, status) -> None:
    server = await serve(trusted_proxies=trusted, allowed_hosts="video.example.org")
    origin = "https://video.example.org:8443"
    assert await handshake(server, **FORWARDED, origin=origin) == status
    async with http(server, **FORWARDED, origin=origin) as client:
        assert (await client.post("/v1/realtime/client_secrets")).status_code == (200 if status == 101 else 403)
    assert await handshake(server, **FORWARDED, origin="https://evil.example.org:8443") == 403


SENT = {  # by proxies in front of https://video.example.org, besides the Host with which they reach the server
    "Traefik": {"x_forwarded_host": "video.example.org", "x_forwarded_port": "443", "x_forwarded_proto": "https"},
    "AWS ALB": {"host": "video.example.org", "x_forwarded_port": "443", "x_forwarded_proto": "https"},
    "Apache": {"x_forwarded_host": "video.example.org", "x_forwarded_server": "inner"},
    "Envoy": {"host": "video.example.org", "x_forwarded_proto": "https", "x_envoy_expected_rq_timeout_ms": "15000"},
    "with a default port": {"host": "Video.Example.org:443"},
    "plain HTTP": {"host": "video.example.org", "x_forwarded_port": "80", "x_forwarded_proto": "http"},
}


@pytest.mark.parametrize("proxy", SENT)
async def test_a_default_port_is_none_whoever_names_it(serve, proxy) -> None:
    server = await serve(trusted_proxies="127.0.0.1", allowed_hosts="video.example.org")
    scheme = SENT[proxy].get("x_forwarded_proto", "https")
    for origin, status in ((f"{scheme}://video.example.org", 101), (f"{scheme}://video.example.org:8443", 403)):
        assert await handshake(server, **{"host": "127.0.0.1:8000", **SENT[proxy], "origin": origin}) == status


async def test_a_refusal_names_its_cause_and_is_logged_once(serve, caplog) -> None:
    server = await serve(allowed_hosts="video.example.org")
    caplog.set_level(logging.INFO)
    for _ in range(3):
        assert await handshake(server, host="video.example.org", origin="https://video.example.org:8443") == 403
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1, told
    assert "origin_not_allowed" in told[0] and "'https://video.example.org:8443'" in told[0]
    assert "$http_host" in told[0] and "PAFU_TRUSTED_PROXIES" in told[0]


async def test_strangers_cannot_fill_the_log_with_refusals(server, caplog) -> None:
    for number in range(120):
        await handshake(server, host=f"{number}.example.org")
    assert len([record for record in caplog.records if "refused" in record.getMessage()]) == 100


async def test_a_page_of_an_allowed_origin_may_use_every_route(serve) -> None:
    server = await serve(allowed_origins=PAGE, api_keys="a-key-of-sixteen-or-more")
    asks = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with http(server) as client:
        for path in ("/v1/videos", "/v1/models", LIVE, "/healthz", "/v1/videos/x/content"):
            asked = await client.options(path, headers=asks)
            assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE), path
            assert "authorization" in asked.headers["access-control-allow-headers"]
            assert "DELETE" in asked.headers["access-control-allow-methods"]
        refused = await client.get("/v1/models", headers={"origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        other = await client.get("/healthz", headers={"origin": "https://evil.example.org"})
        assert "access-control-allow-origin" not in other.headers
        assert (await client.options("/v1/videos", headers={**asks, "origin": "https://evil.example.org"})).is_error


async def test_every_get_route_answers_head_and_a_trailing_slash_changes_nothing(server) -> None:
    await server.engine.settled()
    paths = [path for path, methods in server.app.openapi()["paths"].items() if "get" in methods and "{" not in path]
    assert {"/v1/models", "/metrics", "/v1/videos", "/healthz"} <= set(paths)
    async with http(server) as client:
        for path in [*paths, "/", "/app.js"]:
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (whole.status_code, b""), path
            assert head.headers["content-type"] == whole.headers["content-type"]
            if path != "/app.js":
                assert (await client.get(f"{path.rstrip('/')}/")).status_code == whole.status_code, path
        made = await client.post("/v1/videos/", json={"prompt": "a bar"})
        assert made.status_code == 200 and made.json()["id"]


@pytest.mark.parametrize("settings", [{"base_path": "/pafu"}, {"trusted_proxies": "127.0.0.1"}])
async def test_a_sub_path_may_stay_on_the_requests(serve, settings, viewer_of) -> None:
    server = await serve(**settings)
    prefix = {} if "base_path" in settings else {"x-forwarded-prefix": "/pafu"}
    async with http(server, **prefix) as client:
        for path in ("/pafu/v1/models", "/v1/models", "/pafu/", "/pafu/app.js", "/pafu/v1/videos/"):
            assert (await client.get(path)).status_code == 200, path
        moved = await client.get("/pafu")
        assert (moved.status_code, moved.headers["location"]) == (307, "pafu/")
        assert (await client.get("/pafuv1/models")).status_code == 404
    assert await handshake(server, f"/pafu{LIVE}", host="localhost", **prefix) == 101


async def test_a_lost_upgrade_and_a_socket_that_is_none_are_named(serve) -> None:
    server = await serve(api_keys="a-key-of-sixteen-or-more")
    async with http(server) as client:
        lost = await client.get(LIVE)
    assert (lost.status_code, lost.json()["error"]["code"]) == (426, "upgrade_required")
    assert lost.headers["upgrade"] == "websocket" and "proxy_set_header Upgrade" in lost.text
    with pytest.raises(websockets.InvalidStatus) as refused:
        bearer = {"authorization": "Bearer a-key-of-sixteen-or-more"}
        async with websockets.connect(
            f"ws://127.0.0.1:{server.port}/v1/realtime", proxy=None, additional_headers=bearer
        ):
            pass
    assert refused.value.response.status_code == 404 and b'"not_found"' in refused.value.response.body
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n"
    upgrade = f"Host: localhost\nUpgrade: websocket\nConnection: Upgrade\n{key}"
    old = await spoken(server, f"GET {LIVE} HTTP/1.0\n{upgrade}\n")  # as nginx forwards it unless told otherwise
    assert old.startswith(b"HTTP/1.1 426") and b"HTTP/1.0, which cannot upgrade" in old
    assert b"HTTP/2.0 is not spoken here" in await spoken(server, f"GET {LIVE} HTTP/2.0\n{upgrade}\n")


async def test_a_request_has_one_name_everywhere(serve, viewer_of, caplog) -> None:
    server = await serve(access_log=True)
    caplog.set_level(logging.INFO)
    async with http(server, **{"x-request-id": "mine-1"}) as client:
        assert (await client.get("/v1/nothing")).headers["x-request-id"] == "mine-1"
        strange = await client.get("/healthz", headers={"x-request-id": "a\tb"})
        assert strange.headers["x-request-id"].startswith("req_")
    assert [r.getMessage()[:31] for r in caplog.records if r.name == "pafu.access"][
        0
    ] == "127.0.0.1 GET '/v1/nothing' 404"
    viewer = await server.watch({"additional_headers": {"x-request-id": "mine-2"}}, num_frames=13)
    named = {m["type"]: m.get("request_id") for m in viewer.messages}
    for kind in ("video.start", "video.chunk_metadata", "session.done"):
        assert named[kind] == "mine-2", kind


async def test_the_access_log_has_sockets_and_what_was_asked_before_a_proxy_s_path_is_taken_off(serve, caplog) -> None:
    server = await serve(access_log=True, base_path="/pafu")
    caplog.set_level(logging.INFO)
    async with http(server) as client:
        await client.head("/pafu/healthz")
        moved = await client.get("/pafu")
        assert moved.headers["x-request-id"]
    assert await handshake(server, f"/pafu{LIVE}", host="localhost") == 101
    assert await handshake(server, f"/pafu{LIVE}", host="localhost", origin="https://evil.example.org") == 403
    assert await handshake(server, "/pafu/ws", host="localhost") == 404
    expected = [
        ("HEAD", "/pafu/healthz", 200),
        ("GET", "/pafu", 307),
        ("GET", f"/pafu{LIVE}", 101),
        ("GET", f"/pafu{LIVE}", 403),
        ("GET", "/pafu/ws", 404),
    ]

    def told() -> set[tuple[str, str, int]]:
        lines = [record.getMessage().split() for record in caplog.records if record.name == "pafu.access"]
        return {(method, path.strip("'"), int(status)) for _, method, path, status, *_ in lines}

    async with asyncio.timeout(60):
        while told() != set(expected):
            await asyncio.sleep(0.01)


def policy_of(headers: httpx.Headers) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))


async def test_the_page_may_be_framed_by_allowed_origins_alone_and_runs_its_own_scripts(serve) -> None:
    server = await serve(allowed_origins=PAGE)
    async with http(server) as client:
        for path in ("/", "/app.js"):
            policy = policy_of((await client.get(path)).headers)
            assert policy["frame-ancestors"] == f"'self' {PAGE}" and policy["default-src"] == "'self'"
            assert policy["object-src"] == policy["base-uri"] == "'none'" and "script-src" not in policy


async def test_every_reply_has_the_headers_that_keep_browsers_from_mistakes(serve) -> None:
    """Also what fails, at whatever depth, and what is no HTTP."""
    server = await serve(allowed_origins=PAGE, base_path="/pafu")
    await server.engine.settled()
    paths = [path for path, methods in server.app.openapi()["paths"].items() if "get" in methods]
    assert len(paths) > 10
    async with http(server) as client:
        asked = [await client.get(path.replace("{", "").replace("}", "")) for path in [*paths, "/none", LIVE, "/pafu"]]
        asked += [await client.put(path) for path in ("/", "/v1/videos", "/none")]
        asked += [await client.post("/v1/videos", content=content) for content in (b"{", b"x" * 2**17)]
        asked += [await client.get("/", headers=each) for each in ({"host": "evil.example"}, {"if-none-match": '"x"'})]
        asked += [await client.options("/v1/videos", headers={"origin": PAGE, "access-control-request-method": "GET"})]
    said = [await spoken(server, text) for text in ("x\n\n", "GET / HTTP/1.1\n\n", f"GET {LIVE} HTTP/1.0\n\n")]
    for text in said:
        lines = [line.split(b": ", 1) for line in text.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        asked.append(httpx.Response(400, headers=[(name, value) for name, value in lines]))
    for reply in asked:
        headers, policy = reply.headers, policy_of(reply.headers)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer", reply
        assert "frame-ancestors" in policy and policy["default-src"] in ("'self'", "'none'"), reply
        assert headers["x-request-id"] and "server" not in headers, reply


ODD = [
    (b"GET http://localhost/v1/models HTTP/1.1", b"localhost", 200),
    (b"GET HTTP://localhost:99/v1/models?x=1 HTTP/1.1", b"localhost", 200),
    (b"GET http://localhost HTTP/1.1", b"localhost", 200),
    (b"GET http://evil.example/v1/models HTTP/1.1", b"evil.example", 403),
    (b"GET /v1/models HTTP/1.1", b"evil@localhost", 403),
    (b"GET /v1/models HTTP/1.1", b"localhost:port", 403),
    (b"GET /v1/models HTTP/1.1", b"localhost\r\nHost: localhost", 400),
]


@pytest.mark.parametrize(("line", "host", "status"), ODD)
async def test_a_request_as_a_proxy_gets_it_is_understood_and_a_host_that_is_none_refused(
    server, line, host, status
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(line + b"\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    head = await reader.readline()
    writer.close()
    assert head.split()[1] == str(status).encode() and len(head.split()) > 2, head
