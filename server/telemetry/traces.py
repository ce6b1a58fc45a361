"""OpenTelemetry traces: one span per session, below it one per chunk, below that one per stage.

Optional (``pip install "pafu[otel]"``) and off by default. A session continues the caller's ``traceparent``. For a
video job, the trace has an order span with one span per attempt, on any server, and the same chunk spans below. Stages
are measured as durations, so their spans are placed end to end, ending when the front received the chunk. The standard
``OTEL_EXPORTER_OTLP_*`` variables set the destination. Spans never contain prompts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from server import __version__
from server.config import ConfigError, Settings
from server.ipc.messages import Fragment

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

CONTEXT = ("traceparent", "tracestate")
MOST_CONTEXT = 513  # characters; 512 of a tracestate must be passed on
NANO = 1_000_000_000
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
MISSING = 'PAFU_TRACES is on, but OpenTelemetry is not installed: pip install "pafu[otel]", or turn traces off'


def trace_id_of(traceparent: str) -> str:
    """The trace id in a W3C ``traceparent``; empty if it is invalid."""
    found = TRACEPARENT.fullmatch(traceparent[:256])
    return found[1] if found else ""


def context_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The W3C trace context in a request's headers; empty if its ``traceparent`` is invalid."""
    if not trace_id_of(headers.get("traceparent", "")):
        return {}
    return {name: headers[name] for name in CONTEXT if len(headers.get(name, "")) in range(1, MOST_CONTEXT)}


class Traces:
    """Creates the spans of sessions and jobs; one instance per front."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pafu", __version__)

    def session(self, ids: Mapping[str, str], headers: Mapping[str, str], model: str) -> SessionTrace:
        """Start the trace of a session, continuing the caller's if the headers have one."""
        return self._begin("session", ids, headers, model)

    def ordered(self, ids: Mapping[str, str], headers: Mapping[str, str], model: str) -> str:
        """Record a span for a requested video, continuing the caller's trace; returns its ``traceparent``."""
        span = self._begin("order", ids, headers, model)
        span.over("queued", failed=False)
        return span.traceparent

    def attempt(self, ids: Mapping[str, str], context: Mapping[str, str], model: str) -> SessionTrace:
        """Start the trace of one attempt at a job."""
        return self._begin("attempt", ids, context, model)

    def _begin(self, name: str, ids: Mapping[str, str], headers: Mapping[str, str], model: str) -> SessionTrace:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(dict(headers))
        attributes = {name.replace("_", "."): value for name, value in ids.items()} | {"pafu.model": model}
        return SessionTrace(self._tracer, self._tracer.start_span(name, context, attributes=attributes))

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


class SessionTrace:
    """One session's spans."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """The span as a W3C ``traceparent``."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def sent(self, fragment: Fragment, waited: float, stage: str = "send") -> None:
        """Record a chunk sent after waiting ``waited`` seconds in ``stage`` (for the viewer's connection by
        default)."""
        from opentelemetry.trace import set_span_in_context

        now = time.time_ns()
        received = now - int(waited * NANO)
        began = received - int(fragment.stats.chunk_seconds * NANO)
        parent = set_span_in_context(self._span)
        chunk = self._tracer.start_span("chunk", parent, attributes=described(fragment), start_time=began)
        stages = {name: seconds for name, seconds in fragment.stats.seconds.items() if name != "total"}
        at = received - int(sum(stages.values()) * NANO)
        below = set_span_in_context(chunk)
        for name, seconds in {**stages, stage: waited}.items():
            part = self._tracer.start_span(name, below, start_time=at)
            at += int(seconds * NANO)
            part.end(at)
        chunk.end(now)

    def over(self, reason: str, failed: bool) -> None:
        """The session ended."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("pafu.reason", reason)
        if failed:
            self._span.set_status(StatusCode.ERROR, reason)
        self._span.end()


def described(fragment: Fragment) -> dict[str, Any]:
    """Span attributes: the chunk's size and scalar statistics, without its prompt."""
    figures = {name: value for name, value in msgspec.structs.asdict(fragment.stats).items() if name != "prompt"}
    return {
        "pafu.chunk": fragment.index,
        "pafu.pictures": fragment.pictures,
        "pafu.bytes": len(fragment.data),
        **{f"pafu.{name}": value for name, value in figures.items() if isinstance(value, bool | int | float | str)},
    }


def traces_for(settings: Settings) -> Traces | None:
    """Traces exported as set by OTEL_EXPORTER_OTLP_*; None if they are off. Raises ConfigError."""
    if not settings.traces:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(MISSING, "traces") from None
    resource = Resource.create({"service.name": "pafu", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
