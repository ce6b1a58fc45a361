"""Promise: abusive requests cost the attacker, not others: they are bounded before parsing, and floods are slowed
down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import logging
import threading
from types import SimpleNamespace

import httpx
import pytest

from server.access import bounded_json
from server.errors import shown
from server.http import backpressure, small_reads
from server.http.backpressure import BackpressureProtocol
from server.http.slow_headers import TimeoutProtocol
from server.http.small_reads import FIRST_BYTES, READ_BYTES, SmallReads
from tests.server.socket_fuzz import CONTINUATION, HANDSHAKE, PING, PONG, TEXT, frame, text

START = {"type": "session.start", "prompt": "a bar"}


def http(server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120)


def ours(server) -> list[BackpressureProtocol]:
    return [one for one in server.service.server_state.connections if isinstance(one, BackpressureProtocol)]


async def until(holds) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def raw(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HANDSHAKE.encode())
    await reader.readuntil(b"\r\n\r\n")
    yield reader, writer
    writer.transport.abort()


FLOODS = {
    "pings": frame(PING, b"x" * 100),
    "pongs": frame(PONG, b""),
    "empty pieces": frame(CONTINUATION, b"", final=False),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_frames_is_read_slowly_and_others_get_their_video(server, name, monkeypatch) -> None:
    handled = 0
    for method in ("handle_ping", "handle_pong", "handle_cont"):
        plain = getattr(BackpressureProtocol, method)

        def counting(self, *event, plain=plain) -> None:
            nonlocal handled
            handled += 1
            plain(self, *event)

        monkeypatch.setattr(BackpressureProtocol, method, counting)
    began = asyncio.get_running_loop().time()
    async with raw(server) as (_, writer):
        writer.write(text(START))
        if name == "empty pieces":
            writer.write(frame(TEXT, b"", final=False))
        writer.write(FLOODS[name] * 200_000)
        await until(lambda: any(one._calm is not None for one in ours(server)))
        viewer = await server.watch(num_frames=13, seed=5)
        assert len(viewer.fragments) == 2
    passed = asyncio.get_running_loop().time() - began
    in_one_read = READ_BYTES // len(FLOODS[name]) + 1
    assert handled <= backpressure.FRAMES_AT_ONCE + passed * backpressure.FRAMES_PER_SECOND + in_one_read
    await server.empties()


async def test_who_calmed_down_is_read_again(server, viewer_of, monkeypatch) -> None:
    monkeypatch.setattr(backpressure, "FRAMES_PER_SECOND", 10_000.0)
    async with server.connect(ping_interval=None) as socket:
        viewer = viewer_of(socket)
        for _ in range(600):
            await socket.pong()
        await viewer.start(num_frames=13)
        await viewer.until("session.done")


async def test_who_pings_and_never_reads_is_owed_a_few_answers(server, monkeypatch) -> None:
    monkeypatch.setattr(backpressure, "FRAMES_AT_ONCE", 1e9)
    monkeypatch.setattr(backpressure, "FRAMES_PER_SECOND", 1e9)
    async with raw(server) as (_, writer):
        writer.transport.get_extra_info("socket").setsockopt(1, 8, 4096)  # SO_RCVBUF
        for _ in range(40):
            writer.write(frame(PING, b"x" * 125) * 2000)
            await writer.drain()
        owed = [one.transport.get_write_buffer_size() for one in ours(server)]
        assert owed and max(owed) <= READ_BYTES + 127 * (backpressure.MOST_PONGS + 1), owed


async def test_a_read_is_small_whatever_was_sent(server, monkeypatch) -> None:
    sizes = []
    plain = BackpressureProtocol.data_received
    monkeypatch.setattr(
        BackpressureProtocol, "data_received", lambda self, data: (sizes.append(len(data)), plain(self, data))[1]
    )
    async with raw(server) as (_, writer):
        writer.write(frame(PONG, b"") * 5000)
        await until(lambda: sizes)
    assert max(sizes) <= READ_BYTES


MANY = {"prompt": "x", **{str(number): 1 for number in range(200_000)}}


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/sync", "/v1/videos/extensions", "/v1/videos/video_1/remix"])
async def test_a_body_of_too_many_keys_is_refused_before_it_is_parsed(server, path, monkeypatch) -> None:
    async with http(server) as client:
        reply = await client.post(path, json=MANY)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_message")
        assert "512" in reply.json()["error"]["message"]


async def test_a_body_where_none_is_expected_is_small(server) -> None:
    async with http(server) as client:
        for path in ("/v1/realtime/client_secrets", "/v1/models", "/nothing"):
            reply = await client.post(path, content=b"x" * 5000, headers={"content-type": "application/json"})
            assert reply.status_code == 413, (path, reply.text)
        form = {"content-type": "application/x-www-form-urlencoded"}
        reply = await client.post("/v1/videos", content=b"a=1&" * 20_000, headers=form)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


PROMPT = b'--B\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nx\r\n'
FIELD = b'--B\r\ncontent-disposition: form-data; name="user"\r\n\r\n%s\r\n'
PICTURE = b'--B\r\ncontent-disposition: form-data; name="input_reference"; filename="a"\r\n\r\n\r\n'


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (FIELD % b"1" * 64, "at most 64 fields"),
        (FIELD % b"1" * 100_000, "at most 64 fields"),
        (FIELD % (b"1" * 70_000), "at most 65536 bytes"),
        (PICTURE * 80_000, "only one file"),
    ],
    ids=["one too many", "a flood", "a long field", "files"],
)
async def test_a_form_of_many_parts_is_refused_at_the_first_that_is_too_many(server, parts: bytes, why: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=B"}
    async with http(server) as client:
        reply = await client.post("/v1/videos", content=PROMPT + parts + b"--B--\r\n", headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_message")
        assert why in reply.json()["error"]["message"]


FORMS = {
    "a charset that is a codec": ("multipart/form-data; boundary=B; charset=punycode", b""),
    "a charset of text": ("multipart/form-data; boundary=B; charset=idna", b""),
    "no boundary": ("multipart/form-data", b"x"),
    "half a character": ("application/x-www-form-urlencoded", b"prompt=%ff%fe"),
    "no UTF-8": (
        "multipart/form-data; boundary=B",
        b'--B\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--B--\r\n',
    ),
    "a surrogate in a name": ("application/json", b'{"prompt": "x", "\\ud800": 1}'),
    "a surrogate in a value": ("application/json", b'{"prompt": "x", "size": "\\ud800"}'),
}


@pytest.mark.parametrize("name", FORMS)
async def test_a_form_that_cannot_be_read_is_the_callers_mistake(server, name) -> None:
    kind, body = FORMS[name]
    async with http(server) as client:
        reply = await client.post("/v1/videos", content=body, headers={"content-type": kind})
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error"), reply.text


async def test_json_without_its_header_and_a_packed_body_are_told_what_is_missing(server) -> None:
    body = json.dumps({"prompt": "a red mill"}).encode()
    async with http(server) as client:
        for kind in ("application/x-www-form-urlencoded", "text/plain"):
            reply = await client.post("/v1/videos", content=body, headers={"content-type": kind})
            assert reply.status_code in (400, 415) and "Content-Type: application/json" in reply.text, reply.text
        packed = {"content-type": "application/json", "content-encoding": "gzip"}
        reply = await client.post("/v1/videos", content=gzip.compress(body), headers=packed)
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_body_that_breaks_off_is_nobodys_mistake(server, caplog) -> None:
    caplog.set_level(logging.INFO)
    head = (
        "POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\nContent-Type: application/json\r\n\r\n{"
    )
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head.encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
    metrics = server.engine.observer.metrics
    labels = {"route": "/v1/videos", "method": "POST"}
    await until(lambda: metrics.read("pafu_request_duration_seconds_count", **labels, status="499") == 3)
    assert metrics.read("pafu_request_duration_seconds_count", **labels, status="500") == 0
    assert "Traceback" not in caplog.text and "Exception" not in caplog.text


class Costly(SmallReads):
    """A connection whose bytes take this many CPU seconds each to parse."""

    def __init__(self, clock: SimpleNamespace, seconds_per_byte: float) -> None:
        self.clock, self.cost = clock, seconds_per_byte
        self.rests: list[float] = []
        self.reads: list[int] = []

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)

    def data_received(self, data: bytes) -> None:
        self.reads.append(len(data))
        self.clock.now += self.cost * len(data)


def test_connections_that_are_costly_to_parse_are_read_in_small_pieces_with_pauses(monkeypatch) -> None:
    clock = SimpleNamespace(now=0.0)
    clock.thread_time = clock.monotonic = lambda: clock.now
    monkeypatch.setattr(small_reads, "time", clock)
    monkeypatch.setattr(SmallReads, "_turns_end", 0.0)
    attackers, friend = [Costly(clock, 2e-5) for _ in range(8)], Costly(clock, 0.0)
    for _ in range(4):
        for one in (*attackers, friend):
            one.buffer_updated(len(one.get_buffer(-1)))
    for one in attackers:
        assert one.reads == sorted(one.reads, reverse=True) and one.reads[-1] <= FIRST_BYTES // 4
    assert friend.rests == [] and friend.reads[-1] > friend.reads[0]
    first = [one.rests[0] for one in attackers]
    assert first == sorted(first) and first[-1] > 4 * first[0], "the last one waits for those before it"
    assert attackers[-1].rests[-1] > 8 * clock.now, "together they have a tenth of the time"


BROKEN = {
    "no UTF-8": (frame(TEXT, b'\xff{"type":"session.ping"}'), 1007),
    "no UTF-8 in pieces": (frame(TEXT, b'"\xe2\x82', final=False) + frame(CONTINUATION, b'"'), 1007),
    "no UTF-8, and more of it": (frame(TEXT, b"\xed\xa0\x80") * 5, 1007),
    "not masked": (frame(TEXT, b"{}", mask=False), 1002),
    "too large": (frame(TEXT, b"{}", length=2**31), 1009),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_frames_that_are_invalid_close_the_socket_with_a_line_and_a_count(server, name, caplog) -> None:
    said, code = BROKEN[name]
    metrics = server.engine.observer.metrics
    async with raw(server) as (reader, writer):
        writer.write(text(START) + said)
        async with asyncio.timeout(60):
            received = await reader.read()
    assert bytes([0x88]) in received and code.to_bytes(2, "big") in received[-130:]
    (line,) = [record for record in caplog.records if "Invalid WebSocket" in record.message]
    assert str(code) in line.message and line.exc_info is None
    counted = "message_too_large" if code == 1009 else "invalid_message"
    assert metrics.read("pafu_errors_total", code=counted) == 1
    await server.works()


async def test_data_sent_with_the_handshake_is_read_after_the_answer(server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HANDSHAKE.encode() + text({"type": "session.ping"}) + frame(TEXT, b'{"type":', final=False))
    writer.write(frame(CONTINUATION, b'"session.ping"}'))
    async with asyncio.timeout(60):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        for _ in range(2):
            assert b"session.pong" in await reader.readuntil(b"}")
    writer.transport.abort()


async def test_large_texts_are_parsed_beside_the_event_loop_and_shown_in_part(server, viewer_of, monkeypatch) -> None:
    threads: list[str] = []
    plain = bounded_json.json.loads

    def loads(*given, **named):
        threads.append(threading.current_thread().name)
        return plain(*given, **named)

    monkeypatch.setattr(bounded_json.json, "loads", loads)
    picture = "data:image/png;base64," + "A" * 2**20
    async with http(server) as client:
        reply = await client.post("/v1/videos", json={"prompt": "x", "input_reference": picture})
        assert reply.status_code == 400 and len(reply.text) < 1000
        reply = await client.post("/v1/videos", json={"prompt": ["x"], "input_reference": picture})
        assert reply.status_code == 400 and len(reply.text) < 1000
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send({"type": "session.start", "prompt": 7, "image": picture})
        assert len((await viewer.next())["message"]) < 1000
    parsed = [name for name in threads if name.startswith("parser")]
    assert len(parsed) == 3, threads
    assert len(shown(picture)) <= 80 and shown({"a": picture}).startswith("{'a': 'data:image")


async def test_a_connection_that_is_over_keeps_nothing(serve, monkeypatch) -> None:
    """Thousands a second would make garbage collection hold up the loop."""
    monkeypatch.setattr(TimeoutProtocol, "head_seconds", 3600.0)
    server = await serve()
    for head in ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", HANDSHAKE.replace("localhost", "a.example"), "x"):
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head.encode())
            if head != "x":
                await reader.readline()
            writer.transport.abort()
    async with asyncio.timeout(60):
        while sum(isinstance(each, TimeoutProtocol) for each in gc.get_objects()) > 3:
            await asyncio.sleep(0.1)
            gc.collect()
