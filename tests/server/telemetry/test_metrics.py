"""Promise: every metric has one name, bounded labels and one meaning; nothing unmeasured is reported."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket

import httpx
import pytest
import websockets
from prometheus_client.parser import text_string_to_metric_families

from model.spec import spec_named
from model.stream.chunk_stats import ChunkStats, blank
from server.ipc import messages
from server.telemetry.metrics import BY_NAME, METRICS, Metrics
from server.telemetry.observer import Continuity, Observer

SPEC = spec_named("test-tiny")
PATIENCE = 120.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def observer(clock) -> Observer:
    return Observer(SPEC, clock)


def chunk(pictures: int = 12, started: tuple[str, ...] = (), **figures) -> messages.Fragment:
    """A fragment with these figures."""
    stats = blank(ChunkStats, **{"cache_policy": "pafu", "cache_tokens": 64, "cache_bytes": 4096} | figures)
    seconds = figures.get("seconds", {"total": 0.375, "denoise": 0.25})
    return messages.Fragment(
        session="s",
        index=0,
        pictures=pictures,
        data=b"1234",
        started=list(started),
        active=[],
        completed=[],
        stats=messages.ServedStats.of(stats, seconds, lead_seconds=0.0, memory=None),
        past=messages.PastChunk(index=0, prompt="", camera=(0, 0, 0), latents=b""),
        camera=(0, 0, 0),
        remembered=[],
    )


def families(text: str) -> dict:
    return {family.name: family for family in text_string_to_metric_families(text)}


# ---- the table


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric) -> None:
    assert re.fullmatch(r"pafu_[a-z]+(_[a-z]+)*", metric.name) and metric.help.endswith(".")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert not {"session", "session_id", "prompt", "user", "ip", "model_name", "le"} & set(metric.labels)


def test_no_two_metrics_share_a_name() -> None:
    assert len(BY_NAME) == len(METRICS)


def test_a_label_value_that_is_not_on_its_list_makes_no_series_of_its_own() -> None:
    metrics = Metrics("test-tiny")
    for name in ("a prompt", "sess_1", "sess_2"):
        metrics.add("pafu_errors_total", code=name)
    assert metrics.read("pafu_errors_total", code="other") == 3
    assert "sess_1" not in metrics.render("")[0].decode()


def test_a_wrong_label_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="pafu_errors_total has the labels"):
        Metrics("test-tiny").add("pafu_errors_total", reason="x")


def test_counters_exist_before_anything_happened() -> None:
    shown = families(Metrics("test-tiny").render("")[0].decode())
    for metric in METRICS:
        if metric.kind == "counter" and all(metric.labels.values()):
            assert shown[metric.name.removesuffix("_total")].samples, metric.name


# ---- sessions


def test_a_session_begins_with_its_first_place_and_is_over_once(observer, clock) -> None:
    session, read = observer.session(), observer.metrics.read
    session.placed()
    session.placed()  # again, in another worker
    clock.now += 7
    session.over("complete", chunk())
    assert read("pafu_sessions_started_total") == read("pafu_sessions_finished_total", reason="complete") == 1
    assert read("pafu_session_seconds_sum") == 7
    assert read("pafu_kv_evicted_tokens_total", reason="session_end", policy="pafu") == 64


def test_a_session_that_never_had_a_place_is_no_session_that_finished(observer) -> None:
    observer.session().over("session_rejected", None)
    assert observer.metrics.read("pafu_sessions_finished_total", reason="session_rejected") == 0


def test_a_viewer_without_a_place_is_a_rejection(observer) -> None:
    viewer, read = observer.viewer(), observer.metrics.read
    viewer.asked()
    viewer.failed("session_rejected")
    viewer.over("viewer_left")
    assert read("pafu_session_rejections_total", reason="session_rejected") == 1
    assert read("pafu_errors_total", code="session_rejected") == 1
    assert read("pafu_viewers_left_total", reason="session_rejected") == 0
    assert read("pafu_session_rejections_total", reason="viewer_left") == 0


def test_resuming_or_watching_starts_no_session_and_has_no_first_chunk(observer, clock) -> None:
    read = observer.metrics.read
    for owner in (True, False):
        viewer = observer.viewer()
        viewer.asked(begins=False, owner=owner)
        viewer.opened()
        with viewer.sending(chunk(), 1000):
            pass
        clock.now += 60
        with viewer.sending(chunk(), 1000):
            pass
        viewer.over("viewer_left")
    assert (read("pafu_session_resumes_total"), read("pafu_sessions_started_total")) == (1, 0)
    assert read("pafu_time_to_first_chunk_seconds_count") == 0
    assert read("pafu_viewers_left_total", reason="viewer_left") == 2
    assert read("pafu_deadline_misses_total") == 1, "only the owner paces the stream, so only the owner can starve"


def test_first_chunk_gaps_and_changes_are_timed_from_what_the_viewer_did(observer, clock) -> None:
    watch, read = observer.viewer(), observer.metrics.read
    watch.asked()
    watch.opened()
    clock.now += 0.3
    with watch.sending(chunk(), 1000):
        pass
    watch.changed("evt")
    clock.now += 0.5
    with watch.sending(chunk(started=["evt"]), 1000):
        pass
    assert read("pafu_time_to_first_chunk_seconds_sum") == pytest.approx(0.3)
    assert read("pafu_inter_chunk_seconds_sum") == pytest.approx(0.5)
    assert read("pafu_prompt_switch_seconds_sum") == pytest.approx(0.5)
    assert (read("pafu_chunks_total"), read("pafu_pictures_total"), read("pafu_media_seconds_total")) == (2, 24, 1.5)
    assert read("pafu_sent_bytes_total", format="m4s") == 2000


def test_a_chunk_that_could_not_be_sent_is_not_counted_as_sent(observer) -> None:
    watch = observer.viewer()
    watch.asked()
    with pytest.raises(OSError), watch.sending(chunk(), 1000):
        raise OSError
    assert observer.metrics.read("pafu_chunks_total") == 0


# ---- playout


def test_a_viewer_in_real_time_starves_when_a_chunk_is_late() -> None:
    viewer = Continuity()
    assert viewer.sent(0.75, now=10.0) == 0
    assert viewer.sent(0.75, now=10.5) == 0
    assert viewer.sent(0.75, now=12.0) == pytest.approx(0.5)
    assert viewer.sent(0.75, now=12.5) == 0


def test_a_viewer_who_pauses_does_not_starve_and_one_who_goes_on_can_again() -> None:
    viewer = Continuity()
    viewer.sent(3.0, now=0.0)
    viewer.reported(1.0, now=1.0)
    viewer.reported(1.0, now=2.0)  # paused
    assert viewer.sent(1.0, now=60.0) == 0
    viewer.reported(1.5, now=61.0)  # 2.5 s left
    assert viewer.sent(1.0, now=64.5) == pytest.approx(1.0)


def test_a_viewer_at_the_end_of_what_it_has_is_starving_not_paused() -> None:
    viewer = Continuity()
    viewer.sent(1.0, now=0.0)
    viewer.reported(1.0, now=1.0)
    viewer.reported(1.0, now=2.0)
    assert viewer.sent(1.0, now=3.0) == pytest.approx(2.0)


def test_a_pause_that_was_asked_for_starves_nobody_and_its_end_brings_back_what_was_left() -> None:
    viewer = Continuity()
    viewer.sent(2.0, now=0.0)
    viewer.paused(True, now=0.5)  # 1.5 s left
    viewer.paused(True, now=1.0)
    viewer.paused(False, now=600.0)
    assert viewer.sent(1.0, now=601.0) == 0
    assert viewer.sent(1.0, now=603.0) == pytest.approx(0.5)


def test_a_pause_before_the_first_chunk_is_no_pause_of_anything() -> None:
    viewer = Continuity()
    viewer.paused(True, now=0.0)
    viewer.paused(False, now=5.0)
    assert viewer.sent(1.0, now=9.0) == 0


def test_a_wait_counts_as_a_stall_while_it_lasts_and_only_once(observer, clock) -> None:
    read = observer.metrics.read
    with observer.stall_watch():
        clock.now += 0.9
        observer.scrape("")
        assert (read("pafu_viewer_stall_seconds_total"), read("pafu_viewers_stalled")) == (0, 0)
        clock.now += 1.1
        observer.scrape("")
        assert (read("pafu_viewer_stall_seconds_total"), read("pafu_viewers_stalled")) == (2, 1)
        clock.now += 1.0
    observer.scrape("")
    assert (read("pafu_viewer_stall_seconds_total"), read("pafu_viewers_stalled")) == (3, 0)


# ---- workers and caches


def test_what_a_lost_worker_held_is_no_longer_shown(observer) -> None:
    beat = messages.Beat(
        sessions=1, rss_bytes=5, device_bytes={"free": 7}, cache_bytes=100, cache_tokens=30, cache_budget=60
    )
    observer.beat("0", beat)
    observer.beat("1", beat)
    shown = observer.scrape("")[0].decode()
    assert 'pafu_device_memory_bytes{kind="free",model_name="test-tiny",worker="0"} 7.0' in shown
    assert observer.metrics.read("pafu_kv_cache_bytes") == 200
    observer.worker_lost("0", "killed")
    shown = observer.scrape("")[0].decode()
    held = [line for line in shown.splitlines() if "_bytes{" in line and "worker=" in line]
    assert held and all('worker="1"' in line for line in held)
    assert observer.metrics.read("pafu_kv_cache_bytes") == 100
    assert observer.metrics.read("pafu_kv_cache_usage_ratio") == 0.5


def test_chunks_tell_their_stages_their_speed_and_their_scores(observer) -> None:
    observer.made("0", chunk(salience_quantiles={"0.5": 0.25}, evicted_tokens=9))
    read = observer.metrics.read
    assert read("pafu_chunk_seconds_sum", stage="denoise") == 0.25
    assert read("pafu_real_time_factor_sum") == 2.0  # 12 pictures are 0.75 s
    assert read("pafu_salience_score", policy="pafu", share="0.5") == 0.25
    assert read("pafu_kv_evicted_tokens_total", reason="budget", policy="pafu") == 9


# ---- over HTTP


async def test_metrics_are_served_and_requests_are_counted_by_route_not_by_path(server) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        await client.get("/v1/models")
        await client.get("/invented/by/somebody")
        await client.get("/version", headers={"host": "evil.example"})
        reply = await client.get("/metrics")
        modern = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("text/plain")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert "invented" not in reply.text
    counts = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families(reply.text)["pafu_request_duration_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts == {("/v1/models", "200"): 1, ("page", "404"): 1, ("page", "403"): 1}
    assert server.engine.observer.metrics.read("pafu_errors_total", code="host_not_allowed") == 1


async def test_a_suspended_session_is_listed_until_its_viewer_returns(serve, viewer_of) -> None:
    server = await serve(keep_on_device=3.0, keep_on_disk=600)
    read = server.engine.observer.metrics.read

    async def seen(**wanted: float) -> None:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client, asyncio.timeout(PATIENCE):
            while True:
                assert (await client.get("/metrics")).status_code == 200
                now = {
                    "active": read("pafu_sessions_active"),
                    "device": read("pafu_sessions_suspended", where="device"),
                    "disk": read("pafu_sessions_suspended", where="disk"),
                    "owners": read("pafu_viewers", role="owner"),
                    "watchers": read("pafu_viewers", role="watcher"),
                }
                if now == {**dict.fromkeys(now, 0.0), **wanted}:
                    return
                await asyncio.sleep(0.05)

    async with server.connect() as first, server.connect() as second:
        began = await viewer_of(first).start(num_frames=10_000)
        await viewer_of(first).until("video.chunk_metadata")
        await viewer_of(second).send({"type": "session.watch", "session_id": began["session_id"]})
        await seen(active=1, owners=1, watchers=1)
        assert 0 < read("pafu_kv_cache_reserved_bytes") < read("pafu_kv_cache_limit_bytes")
        await viewer_of(first).send({"type": "session.pause"})
        await seen(device=1, owners=1, watchers=1)
    await seen(disk=1)
    assert read("pafu_kv_cache_reserved_bytes") == 0
    assert read("pafu_viewers_left_total", reason="viewer_left") == 2
    async with server.connect() as third:
        await viewer_of(third).send(server.coming_back(began))
        await viewer_of(third).until("video.start")
        await seen(active=1, owners=1)
        await viewer_of(third).send({"type": "session.stop"})
        await viewer_of(third).closed()
    await server.empties()
    assert read("pafu_session_resumes_total") == read("pafu_sessions_started_total") == 1
    assert read("pafu_sessions_finished_total", reason="stopped") == 1
    assert read("pafu_time_to_first_chunk_seconds_count") == 1


async def test_with_a_port_of_its_own_metrics_leave_the_public_one(serve) -> None:
    server = await serve(metrics_port=0)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        assert (await client.get("/metrics")).status_code == 404


def sleepy_socket(port: int) -> socket.socket:
    """A connection with small buffers, so that a viewer who does not read is noticed soon."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    raw.connect(("127.0.0.1", port))
    return raw


ENDLESS = {"type": "session.start", "prompt": "noise", "streaming_buffer_seconds": 1000, "num_frames": 15_000}


async def test_prometheus_sees_a_viewer_that_stalls_while_it_stalls(serve, prometheus) -> None:
    server = await serve(max_lead_seconds=1000)
    watcher = prometheus(f"127.0.0.1:{server.port}")
    await watcher.sees("pafu_viewers_stalled", 0)
    async with server.connect(sock=sleepy_socket(server.port), max_queue=1) as connection:
        await connection.send(json.dumps(ENDLESS))  # and do not read
        await watcher.sees("pafu_viewers_stalled", 1)
        await watcher.sees("pafu_viewers{role='owner'}", 1)
        await watcher.until("pafu_viewer_stall_seconds_total", lambda value: value > 2)

        async def read() -> None:
            async for _ in connection:
                pass

        reading = asyncio.create_task(read())
        await watcher.sees("pafu_viewers_stalled", 0)
        reading.cancel()
    await watcher.sees("pafu_viewers_left_total{reason='viewer_left'}", 1)
    await watcher.sees("pafu_sessions_finished_total{reason='expired'}", 1)


async def test_a_viewer_who_stalled_for_too_long_is_counted_as_such_and_its_session_on_its_own(serve) -> None:
    server = await serve(stall_timeout=1.5, max_lead_seconds=1000)
    async with server.connect(sock=sleepy_socket(server.port), max_queue=1) as connection:
        await connection.send(json.dumps(ENDLESS))
        read = server.engine.observer.metrics.read
        async with asyncio.timeout(PATIENCE):
            while not read("pafu_viewers_left_total", reason="viewer_stalled"):
                await asyncio.sleep(0.05)
        with contextlib.suppress(websockets.ConnectionClosed):
            async for _ in connection:
                pass
    await server.empties()
    assert read("pafu_viewer_stall_seconds_total") >= 1.5
    assert read("pafu_sessions_finished_total", reason="expired") == 1
