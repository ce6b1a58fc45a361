"""Promise: with traces on, a collector gets a span per chunk with its stages; a missing collector disturbs no
stream."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pafu_client import connect

from server.bench.launch import launched

pytest.importorskip("opentelemetry.sdk")
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "req_mine"}


class Collector:
    """A minimal OpenTelemetry collector over OTLP/HTTP: accepts protobuf, answers 200."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                packed = self.headers.get("content-encoding") == "gzip"
                collector.take(self.path, gzip.decompress(body) if packed else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        assert path == "/v1/traces"
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({entry.key: entry.value.string_value for entry in group.resource.attributes})
            self.spans += [span for scope in group.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.server.shutdown()
    running.server.server_close()


def told(span: Any) -> dict[str, Any]:
    """The span's attributes."""
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in span.attributes}


async def test_a_collector_gets_sessions_of_chunks_of_stages(monkeypatch, collector, tmp_path) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with launched(max_sessions=4, model="test-tiny", data_dir=tmp_path, traces="true") as server:
        server.wait_ready()
        wish = {"prompt": "a very private wish", "num_frames": 36, "realtime": False, "headers": HEADERS}
        async with connect(server.url(), **wish) as stream:
            chunks = [chunk async for chunk in stream]
            session_id = stream.init.session_id
    names = ("session", "chunk", "denoise")
    by_name = {name: [span for span in collector.spans if span.name == name] for name in names}
    (session,) = by_name["session"]
    assert session.trace_id.hex() == TRACE
    assert told(session)["session.id"] == session_id and told(session)["request.id"] == "req_mine"
    assert [told(span)["pafu.chunk"] for span in by_name["chunk"]] == [chunk.metadata.index for chunk in chunks]
    assert {span.parent_span_id for span in by_name["chunk"]} == {session.span_id}
    assert len(by_name["denoise"]) == len(chunks)
    for chunk in by_name["chunk"]:
        stages = {span.name for span in collector.spans if span.parent_span_id == chunk.span_id}
        assert stages == {"text", "denoise", "clean", "decode", "prune", "encode", "send"}
    assert collector.resources[0]["service.name"] == "pafu"
    assert not any("private" in str(span) for span in collector.spans)


async def test_a_collector_that_is_away_disturbs_no_stream_and_no_end(monkeypatch, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    with launched(max_sessions=4, model="test-tiny", data_dir=tmp_path, traces="true") as server:
        server.wait_ready()
        async with connect(server.url(), prompt="a red house", num_frames=36, realtime=False) as stream:
            assert sum([chunk.metadata.num_frames async for chunk in stream]) == 36
        server.process.terminate()
        assert server.process.wait(120) == 0
        assert not any("Traceback" in line for line in server.lines)
