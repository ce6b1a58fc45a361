"""Promise: by default there are as many places as sessions that play in real time, and the server says why."""

from __future__ import annotations

import dataclasses
import math
import random
from types import SimpleNamespace

import httpx
import msgspec
import pytest
import torch

from model.spec import TEST_TINY
from model.stream.chunk_stats import blank
from model.stream.session_cache import new_cache
from model.weights import random_model
from server.cli import doctor
from server.config import Settings
from server.engine.admission import COUNTED, COUNTED_AGAINST, Capacity, Speed, cache_bytes, in_real_time
from server.engine.line import Line
from server.engine.local import LocalEngine
from server.engine.member import Member
from server.engine.slots import slots_for
from server.ipc.messages import CacheChoice, Fragment, Open, PastChunk, Ready
from server.live.resume_point import ResumePoint
from server.worker import loop as worker
from server.worker.generator import ModelGenerator, load_model
from server.worker.session import WorkerSession

CACHE = CacheChoice(policy="window", budget_latents=6, sink_latents=0, recent_latents=3)


def ready(chunk_seconds: float | None, room: int = 2**40) -> Ready:
    return Ready(
        weights="",
        digest="",
        device="cpu",
        load_seconds=0.0,
        warm_up_seconds=0.0,
        dtype="float32",
        cache_room_bytes=room,
        versions={},
        chunk_seconds=chunk_seconds,
    )


@pytest.fixture
def fragment(pattern):
    """A chunk that took this long."""
    order = Open(session="a", prompt="", seed=1, lead_seconds=1, cache=CACHE, pictures=None)
    session = WorkerSession(order, pattern.PatternGenerator("test-tiny"))
    made = session.deliver(session.encode(session.generate(session.apply_pending()[0])))

    def taking(session_id: str, index: int, seconds: float) -> Fragment:
        stats = msgspec.structs.replace(made.stats, chunk_seconds=seconds)
        return msgspec.structs.replace(made, session=session_id, index=index, stats=stats)

    return taking


def one_worker(settings: Settings) -> tuple[LocalEngine, Member]:
    engine = LocalEngine(settings, slots_for(settings))
    return engine, engine.pool.members[0]


def says(worker: Member, ready: Ready) -> None:
    """The worker's process reports that it has loaded its model."""
    worker.supervisor.ready = ready
    worker.heard(ready)
    worker.became(worker.supervisor.state)


@pytest.mark.parametrize(("seconds", "sessions"), [(0.2, 3), (0.3, 2), (0.6, 1), (5.0, 1), (0.01, 63)])
def test_a_chunk_must_leave_time_for_those_of_the_others(seconds: float, sessions: int) -> None:
    assert in_real_time(TEST_TINY, seconds) == sessions  # a chunk plays 0.75 s


@pytest.mark.parametrize(
    ("capacity", "sessions", "limited_by"),
    [
        (Capacity(), None, "speed"),
        (Capacity(by_speed=3, by_memory=9), 3, "speed"),
        (Capacity(by_speed=9, by_memory=2), 2, "memory"),
        (Capacity(by_speed=9, by_memory=0), 1, "memory"),
        (Capacity(by_speed=3, by_memory=2, setting=7), 7, "setting"),
    ],
)
def test_the_smaller_of_speed_and_memory_counts_unless_the_operator_says_more(
    capacity: Capacity, sessions: int | None, limited_by: str
) -> None:
    assert (capacity.sessions, capacity.limited_by) == (sessions, limited_by)


async def test_a_worker_that_starts_at_a_busy_moment_takes_no_place_away(tmp_path) -> None:
    engine, worker = one_worker(Settings(model="test-tiny", data_dir=tmp_path))
    assert engine.status().capacity.sessions is None
    places = []
    for chunk_seconds in (0.2, 0.7, None, 0.1):
        says(worker, ready(chunk_seconds))
        places.append((engine.status().capacity.sessions, worker.account.most))
    assert places == [(3, 3), (3, 3), (3, 3), (6, 6)]
    assert engine.observer.metrics.read("pafu_sessions_limit") == 6


async def test_a_limit_measured_at_a_busy_start_is_corrected_by_real_chunk_times(tmp_path, fragment) -> None:
    engine, worker = one_worker(Settings(model="test-tiny", device="cpu", data_dir=tmp_path))
    says(worker, ready(chunk_seconds=2.0))
    assert engine.status().capacity.sessions == worker.account.most == 1
    usual = CacheChoice.of(Settings(model="test-tiny").cache())
    order = Open(session="a", prompt="", seed=1, lead_seconds=1, cache=usual, pictures=None)
    worker.lines["a"] = Line(worker, order)
    full = math.ceil(usual.budget_latents / TEST_TINY.chunk_latents)
    for index in range(full + COUNTED - 1):
        worker.heard(fragment("a", index, 0.12 if index % 3 else 1.0))  # a disturbance now and then
    assert worker.account.most == 1, "too few to believe them"
    worker.heard(fragment("a", full + COUNTED, 0.12))
    assert engine.status().capacity.sessions == worker.account.most == in_real_time(TEST_TINY, 0.12) > 1
    assert engine.pool.max_sessions == worker.account.most and engine.status().capacity.chunk_seconds == 0.12
    for index in range(COUNTED_AGAINST // 2):
        worker.heard(fragment("a", full + index, 5.0))
    assert engine.status().capacity.sessions == in_real_time(TEST_TINY, 0.12), "nor does a busy moment later take any"


async def test_a_machine_that_stays_slower_takes_fewer_new_sessions_and_ends_none(tmp_path, fragment) -> None:
    engine, worker = one_worker(Settings(model="test-tiny", device="cpu", data_dir=tmp_path))
    says(worker, ready(chunk_seconds=0.12, room=2**40))
    usual = CacheChoice.of(Settings(model="test-tiny").cache())
    for name in "abcd":
        order = Open(session=name, prompt="", seed=1, lead_seconds=1, cache=usual, pictures=None)
        worker.account.hold(order, 1)
        worker.lines[name] = Line(worker, order)
    for index in range(COUNTED_AGAINST):
        worker.heard(fragment("a", 100 + index, 0.3))
    assert engine.status().capacity.sessions == worker.account.most == in_real_time(TEST_TINY, 0.3) == 2
    assert list(worker.lines) == list("abcd") and len(worker.account) == 4, "those that play go on"
    assert not worker.account.fits(1)
    for index in range(COUNTED):
        worker.heard(fragment("a", 200 + index, 0.12))
    assert worker.account.most == in_real_time(TEST_TINY, 0.12), "and it recovers as soon as chunks are quick again"


def test_noise_moves_the_number_neither_down_nor_to_and_fro() -> None:
    usual, chance = CacheChoice.of(Settings(model="test-tiny").cache()), random.Random(1)
    speed = Speed(TEST_TINY, usual)
    speed.measured(0.2)
    seen = []
    for index in range(5000):
        speed.made(usual, 100 + index, 0.2 * chance.uniform(0.8, 1.5))
        seen.append(speed.sessions)
    assert seen == sorted(seen) and seen[-1] <= in_real_time(TEST_TINY, 0.2) + 1


def test_chunks_of_another_cache_or_of_one_that_still_fills_tell_nothing() -> None:
    usual = CacheChoice.of(Settings(model="test-tiny").cache())
    speed = Speed(TEST_TINY, usual)
    speed.measured(2.0)
    for _ in range(2 * COUNTED):
        assert not speed.made(CACHE, 100, 0.01) and not speed.made(usual, 0, 0.01)
    assert speed.sessions == 1


async def test_memory_counts_with_the_cache_that_sessions_usually_have(tmp_path) -> None:
    settings = Settings(model="test-tiny", data_dir=tmp_path)
    one = cache_bytes(TEST_TINY, CacheChoice.of(settings.cache()), "float32")
    engine, worker = one_worker(settings)
    says(worker, ready(0.01, room=2 * one))
    assert (engine.status().capacity.sessions, engine.status().capacity.limited_by) == (2, "memory")


async def test_the_status_is_told_while_no_process_has_told_what_it_computes_in(tmp_path) -> None:
    settings = Settings(model="test-tiny", data_dir=tmp_path, kv_dtype="bf16")
    engine, worker = one_worker(settings)
    says(worker, msgspec.structs.replace(ready(0.01), dtype="bfloat16"))
    before = engine.status().capacity
    worker.supervisor.ready = None  # as after its process died
    assert engine.status().capacity == before
    usual = CacheChoice.of(settings.cache())
    assert cache_bytes(TEST_TINY, usual, "float32") >= cache_bytes(TEST_TINY, usual, "bfloat16")


def test_evicted_tokens_in_host_memory_count_where_the_host_is_the_device(tmp_path) -> None:
    settings = Settings(model="test-tiny", data_dir=tmp_path, cache_policy="retrieval", cache_host_latents=9)
    choice = CacheChoice.of(settings.cache())
    cpu, gpu = (cache_bytes(TEST_TINY, choice, "float32", (device,)) for device in ("cpu", "cuda:0"))
    model = random_model(TEST_TINY, 0, dtype=torch.float32)
    assert cpu - gpu == new_cache(model, choice.config, 0).host_nbytes > 0


def test_a_session_on_a_gpu_that_finds_no_host_memory_is_refused_with_what_to_do(monkeypatch) -> None:
    model = dataclasses.replace(random_model(TEST_TINY, 0, dtype=torch.float32), device=torch.device("cuda"))
    monkeypatch.setattr("server.worker.generator.available_bytes", lambda: 2**20)
    choice = CacheChoice.of(Settings(model="test-tiny", cache_policy="retrieval").cache())
    with pytest.raises(MemoryError, match=r"needs \d+ MiB of host memory, 1 MiB are free: set PAFU_CACHE_HOST_LATENTS"):
        ModelGenerator(model, "", "cuda", {}).open("a house", 0, choice)


def test_a_front_keeps_every_chunk_of_which_host_memory_holds_a_frame() -> None:
    cache = Settings(model="test-tiny", cache_policy="retrieval", cache_host_latents=30).cache()
    point = ResumePoint(TEST_TINY, CacheChoice.of(cache))
    for index in range(40):
        past = PastChunk(index=index, prompt="", camera=(0, 0, 0), latents=b"")
        remembered = tuple(range(0, index, 2))  # one latent frame of every second chunk is left
        point.add(blank(Fragment, index=index, past=past, remembered=remembered))
    held = point.past()
    assert held is not None and [chunk.index for chunk in held.chunks] == [*range(0, 40, 2), 39]


async def test_a_setting_wins(tmp_path) -> None:
    engine, worker = one_worker(Settings(model="test-tiny", data_dir=tmp_path, max_sessions=7))
    says(worker, ready(0.7))
    assert (engine.status().capacity.sessions, worker.account.most) == (7, 7)


async def test_health_and_models_tell_the_number_and_why(serve) -> None:
    server = await serve(max_sessions=None)
    await server.engine.settled()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        health = (await client.get("/health")).json()
        (model,) = (await client.get("/v1/models")).json()["data"]
    why = health["capacity"]
    assert why["chunk_seconds"] > 0 and why["by_speed"] == in_real_time(TEST_TINY, why["chunk_seconds"])
    assert health["max_sessions"] == model["limits"]["max_sessions"] == min(why["by_speed"], why["by_memory"])
    await server.works()


class Clock:
    """A clock that only chunks advance, by their given durations."""

    def __init__(self, pattern, taking: list[float]) -> None:
        self.now, self.taking, self.pattern = 0.0, taking, pattern.PatternGenerator("test-tiny")

    def perf_counter(self) -> float:
        return self.now

    def open(self, *order):
        stream = self.pattern.open(*order)
        make = stream.next_latents

        def next_latents(*given):
            self.now += self.taking.pop(0)
            return make(*given)

        stream.next_latents = next_latents
        return stream

    def __getattr__(self, name: str):
        return getattr(self.pattern, name)


@pytest.mark.parametrize(
    ("taking", "best", "left"),
    [
        ([0.5, 0.1, 0.3, 0.2, 0.4, 9.0], 0.2, [9.0]),  # two until the cache is full, then the best of three
        ([1.0, 1.5, 1.0, 9.0], 1.0, [9.0]),  # slow: no more than three seconds and a chunk
        ([5.0, 9.0], 5.0, [9.0]),
    ],
)
def test_the_best_of_a_few_chunks_counts_and_a_slow_model_is_not_waited_for(
    pattern, monkeypatch, taking: list[float], best: float, left: list[float]
) -> None:
    clock = Clock(pattern, taking)
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    assert worker.measure(clock, CACHE) == pytest.approx(best)
    assert taking == left


def test_a_session_that_cannot_be_made_is_not_measured_and_keeps_nobody_from_starting(pattern, monkeypatch) -> None:
    generator = pattern.PatternGenerator("test-tiny")

    def refuse(*order):
        raise ValueError("no salience head")

    monkeypatch.setattr(generator, "open", refuse)
    assert worker.measure(generator, CACHE) is None


def test_a_cache_that_never_evicts_is_measured_until_it_is_full() -> None:
    generator = ModelGenerator(load_model("test-tiny", None, "cpu")[0], "", "cpu", {})
    full = CacheChoice(policy="full", budget_latents=7, sink_latents=0, recent_latents=1)
    assert worker.measure(generator, full) is not None


def test_the_doctor_measures_too() -> None:
    held = [load_model("test-tiny", None, "cpu")[0]]
    words = doctor.speed(Settings(model="test-tiny", device="cpu"), TEST_TINY, held)
    assert "in real time at once (a chunk plays 0.75 s and takes" in words
    chosen = Settings(model="test-tiny", device="cpu", max_sessions=10_000)
    assert doctor.speed(chosen, TEST_TINY, held).endswith("but PAFU_MAX_SESSIONS is 10000: they will stall")
    with pytest.raises(doctor.Wrong, match="could not be loaded"):
        doctor.speed(chosen, TEST_TINY, [])
