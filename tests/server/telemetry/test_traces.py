"""Promise: with traces on, a chunk is a span with its stages, joined to session and request, and tells no prompt."""

from __future__ import annotations

import sys

import pytest

from server.config import ConfigError, Settings
from server.telemetry import traces

pytest.importorskip("opentelemetry.sdk")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return traces.Traces(provider), exporter.get_finished_spans


async def test_a_stream_is_a_session_of_chunks_of_stages(server, spans, viewer_of) -> None:
    server.engine.observer.traces, finished = spans
    headers = {"traceparent": PARENT, "x-request-id": "req_mine"}
    async with server.connect(additional_headers=headers) as socket:
        viewer = viewer_of(socket)
        await viewer.start(num_frames=25, prompt="a very private wish")
        await viewer.until("session.done")
    await server.empties()
    (session,) = [span for span in finished() if span.name == "session"]
    chunks = [span for span in finished() if span.name == "chunk"]
    assert f"{session.context.trace_id:032x}" in PARENT and f"{session.parent.span_id:016x}" in PARENT
    assert session.attributes["request.id"] == "req_mine" and session.attributes["session.id"].startswith("sess_")
    assert session.attributes["pafu.reason"] == "complete" and session.status.is_unset
    assert [chunk.attributes["pafu.chunk"] for chunk in chunks] == [0, 1, 2]
    assert sum(chunk.attributes["pafu.pictures"] for chunk in chunks) == 25
    for chunk in chunks:
        assert chunk.parent.span_id == session.context.span_id
        stages = [span for span in finished() if span.parent and span.parent.span_id == chunk.context.span_id]
        assert {"denoise", "decode", "encode", "send"} == {stage.name for stage in stages}
        assert all(before.end_time == after.start_time for before, after in zip(stages, stages[1:], strict=False))
    assert not any("private" in str(span.attributes) for span in finished())


async def test_a_session_that_fails_is_a_failed_span(server, spans, viewer_of) -> None:
    server.engine.observer.traces, finished = spans
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="explode")
        await viewer.closed()
    await server.empties()
    (session,) = [span for span in finished() if span.name == "session"]
    assert session.attributes["pafu.reason"] == "generation_failed" and not session.status.is_ok


def test_traces_are_off_by_default_and_cost_no_import() -> None:
    assert traces.traces_for(Settings()) is None


def test_traces_without_opentelemetry_are_refused_with_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pafu\[otel\]"):
        traces.traces_for(Settings(traces=True))
