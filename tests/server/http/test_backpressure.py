"""Promise: a viewer who never reads costs at most a second of buffered video, and is disconnected in the end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from server.http.backpressure import BackpressureProtocol

_PATH = Path(__file__).resolve().parents[2] / "soak" / "never_reads.py"
_SPEC = importlib.util.spec_from_file_location("never_reads", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
never_reads = importlib.util.module_from_spec(_SPEC)
sys.modules["never_reads"] = never_reads
_SPEC.loader.exec_module(never_reads)

CHUNK = 0.75  # seconds of video
GOODBYE = b"\x88\x80\x00\x00\x00\x00"  # a close frame with an empty mask
START = {"prompt": "noise", "seed": 1}  # 200 kB a chunk
SMALL = 4096  # bytes of the viewer's own buffer


async def test_a_viewer_who_never_reads_costs_a_second_of_video_at_most(serve) -> None:
    server = await serve(max_lead_seconds=1000)
    await server.engine.settled()
    wish = {**START, "streaming_buffer_seconds": 1000}  # the lead is not what holds the server back
    with await asyncio.to_thread(never_reads.begin, server.port, wish, SMALL) as sock:
        found = await asyncio.to_thread(never_reads.never_reads, server.url, 16, CHUNK, sock)
        assert found["made"] == CHUNK and 0 < found["held"] <= never_reads.ALLOWED
    await server.works()


async def test_no_video_is_kept_for_a_viewer_who_reads_and_reports_nothing(serve) -> None:
    server = await serve(max_lead_seconds=1000)
    await server.engine.settled()
    wish = {**START, "streaming_buffer_seconds": 5}
    with await asyncio.to_thread(never_reads.begin, server.port, wish) as sock:
        found = await asyncio.to_thread(never_reads.never_reports, server.url, sock, 2.0)
    assert found["chunks"] >= 1 and found["held_bytes"] <= 1.34 * found["bytes_of_a_chunk"]
    await server.works()


def sockets() -> int:
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(link.startswith("socket:") for link in links)


async def test_a_connection_that_is_over_does_not_wait_for_a_viewer_who_never_reads(serve, monkeypatch) -> None:
    monkeypatch.setattr(BackpressureProtocol, "cut_after", 0.2)
    monkeypatch.setattr("server.live.viewer_socket.CLOSE_WITHIN", 0.2)
    server = await serve(stall_timeout=0.5)
    await server.works()
    before = sockets()
    with await asyncio.to_thread(never_reads.begin, server.port, START, SMALL):
        async with asyncio.timeout(120):
            while not server.front.viewers:
                await asyncio.sleep(0.01)
            await server.empties()
            while sockets() > before + 1:  # the viewer's own end
                await asyncio.sleep(0.05)
        assert not server.front.viewers and not list(server.front.sessions)


async def test_a_client_that_closes_right_after_the_handshake_is_no_server_error(server, monkeypatch, caplog) -> None:
    """Handshake and close arrive in one packet: the session sees the close before the handshake is answered, which is
    not an error."""
    connect = BackpressureProtocol.handle_connect

    def at_once(self: BackpressureProtocol, event: object) -> None:
        connect(self, event)
        self.data_received(GOODBYE)

    monkeypatch.setattr(BackpressureProtocol, "handle_connect", at_once)
    headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    hello = f"GET /v1/realtime/video HTTP/1.1\r\nHost: localhost\r\n{headers}AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with caplog.at_level("WARNING"):
        writer.write(hello.encode())
        async with asyncio.timeout(120):
            assert b"500" not in await reader.read()
    writer.close()
    assert [record.getMessage() for record in caplog.records] == []
    monkeypatch.undo()
    await server.works()


async def test_a_download_that_nobody_reads_is_closed(serve) -> None:
    server, ended = await serve(stall_timeout=0.5), asyncio.Event()

    async def endless(request):
        async def pieces():
            try:
                while True:
                    yield bytes(2**18)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    server.app.router.routes.insert(0, Route("/endless", endless))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=SMALL)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    reader._transport.pause_reading()
    await asyncio.wait_for(ended.wait(), 60)
    writer.close()
    await server.works()


async def test_a_download_that_is_read_slowly_is_not(serve) -> None:
    server = await serve(stall_timeout=1.0)

    async def long(request):
        return Response(bytes(2**23))

    server.app.router.routes.insert(0, Route("/long", long))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=SMALL)
    writer.write(b"GET /long HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    taken = 0
    while piece := await reader.read(2**20):
        taken += len(piece)
    writer.close()
    assert taken == 2**23
