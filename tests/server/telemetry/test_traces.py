"""Promise: with traces on, each chunk is a span with its stages, linked to session and request, without the prompt."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys

import httpx
import pytest

from server.config import ConfigError, Settings
from server.telemetry import logs, traces

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


async def test_a_job_goes_on_in_the_trace_of_its_order(serve, spans, tmp_path) -> None:
    server = await serve(data_dir=tmp_path)
    server.engine.observer.traces, finished = spans
    headers = {"traceparent": PARENT, "tracestate": "vendor=x", "x-request-id": "req_mine"}
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        asked = await client.post("/v1/videos", json={"prompt": "a private wish", "num_frames": 20}, headers=headers)
        while (await client.get(f"/v1/videos/{asked.json()['id']}")).json()["status"] != "completed":
            await asyncio.sleep(0.05)
    (order,) = [span for span in finished() if span.name == "order"]
    while not (attempts := [span for span in finished() if span.name == "attempt"]):
        await asyncio.sleep(0.01)
    (attempt,) = attempts
    chunks = [span for span in finished() if span.name == "chunk"]
    assert f"{order.context.trace_id:032x}" in PARENT and f"{order.parent.span_id:016x}" in PARENT
    assert attempt.parent.span_id == order.context.span_id and attempt.attributes["pafu.reason"] == "completed"
    for span in (order, attempt):
        assert span.context.trace_state.to_header() == "vendor=x"
        assert span.attributes["request.id"] == "req_mine" and span.attributes["job.id"] == asked.json()["id"]
    assert [chunk.attributes["pafu.chunk"] for chunk in chunks] == [0, 1]
    assert all(chunk.parent.span_id == attempt.context.span_id for chunk in chunks)
    assert {span.name for span in finished() if span.parent and span.parent.span_id == chunks[0].context.span_id} == {
        *("denoise", "decode", "encode", "keep")
    }
    assert not any("private" in str(span.attributes) for span in finished())


@pytest.mark.parametrize(
    ("given", "trace"),
    [
        (PARENT, "0af7651916cd43dd8448eb211c80319c"),
        (PARENT + "-more", "0af7651916cd43dd8448eb211c80319c"),
        ("", ""),
        ("00-zz-b7ad6b7169203331-01", ""),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", ""),
        ("ff" + PARENT[2:], ""),
        (PARENT.upper(), ""),
        (PARENT + "\n", ""),
    ],
)
def test_only_a_traceparent_names_a_trace(given, trace) -> None:
    assert traces.trace_id_of(given) == trace


async def test_ids_reach_every_line_about_a_job_and_a_session(serve, tmp_path, viewer_of, capfd, caplog) -> None:
    caplog.set_level("INFO", "pafu")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Json(""))
    logging.getLogger().addHandler(handler)
    server = await serve(data_dir=tmp_path, log_format="json")
    headers = {"traceparent": PARENT, "x-request-id": "req_mine"}
    try:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
            asked = await client.post("/v1/videos", json={"prompt": "explode"}, headers=headers)
            while (await client.get(f"/v1/videos/{asked.json()['id']}")).json()["status"] != "failed":
                await asyncio.sleep(0.05)
        async with server.connect(additional_headers=headers) as socket:
            viewer = viewer_of(socket)
            await viewer.start(prompt="explode")
            await viewer.closed()
        await server.stop()
    finally:
        logging.getLogger().removeHandler(handler)
    front = [line for text in stream.getvalue().splitlines() if (line := json.loads(text))["logger"].startswith("pafu")]
    worker = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"process": "worker"' in line]
    job = asked.json()["id"]
    about_job = [line for line in front if job in line["message"]] + [
        w for w in worker if job in w.get("session_id", "")
    ]
    about_session = [line for line in [*front, *worker] if line.get("session_id", "").startswith("sess_")]
    assert {line["process"] for line in about_job} == {line["process"] for line in about_session} == {"front", "worker"}
    for line in [*about_job, *about_session]:
        assert line["request_id"] == "req_mine" and line["trace_id"] in PARENT
    assert all(line["job_id"] == job for line in about_job if line["process"] == "front")


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
