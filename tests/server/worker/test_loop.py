"""Promise: the step loop serves each session as if it were alone, and a failing session fails alone. No process
here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model.spec import spec_named
from server.ipc import messages
from server.live.resume_point import ResumePoint
from server.worker.generator import StartError
from server.worker.loop import DEVICE_SUSPECT, START_FAILED, Worker, device_suspect, serve
from server.worker.session import BegunChunk, WorkerSession
from tests.server.worker.line import CACHE, Line, film, order, steps

CONFIGURE = messages.Configure(
    model="test-tiny", weights=None, device="cpu", threads=1, cache_room_bytes=0, beat_seconds=1e9
)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def worker(line, pattern) -> Worker:
    return Worker(line, pattern.PatternGenerator("test-tiny"), beat_seconds=1e9)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that stands still unless the test advances ``now``."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("server.worker.loop.time", clock)
    monkeypatch.setattr("server.worker.session.time", clock)
    return clock


def test_a_session_is_opened_generated_and_ended(worker, line) -> None:
    line.inbox = [order("a", pictures=30)]
    steps(worker, 5)
    assert line.of("a", messages.Opened)[0].mime.startswith('video/mp4; codecs="avc1.')
    assert [f.pictures for f in line.of("a", messages.Fragment)] == [12, 12, 6]
    (ended,) = line.of("a", messages.Ended)
    assert (ended.reason, ended.chunks, ended.code) == ("complete", 3, None)


def test_two_sessions_at_once_are_byte_for_byte_what_each_is_alone(line, pattern) -> None:
    def run(*orders: messages.Open) -> Line:
        line = Line()
        worker = Worker(line, pattern.PatternGenerator("test-tiny"), beat_seconds=1e9)
        line.inbox = list(orders)
        steps(worker, 12)
        return line

    one, two = order("one", "red", 1, pictures=40), order("two", "the camera pans left", 2, pictures=40)
    both = run(one, two)
    assert film(both, "one") == film(run(one), "one") != film(both, "two")
    assert film(both, "two") == film(run(two), "two")
    kinds = [m.session for m in both.sent if isinstance(m, messages.Fragment)]
    assert kinds == ["one", "two"] * 4, "the sessions did not take turns"


def test_with_more_viewers_than_fit_in_real_time_each_gets_as_much_as_any_other(
    worker, line, clock, monkeypatch
) -> None:
    generate = worker.generate

    def slowly(session: WorkerSession) -> BegunChunk:
        clock.now += 0.3  # 0.75 s of video: 2 of the 6 viewers could be played to in real time
        return generate(session)

    monkeypatch.setattr(worker, "generate", slowly)
    line.inbox = [order(name, lead=1.25) for name in "abcdef"]
    steps(worker, 30)
    made = {name: len(line.of(name, messages.Fragment)) for name in "abcdef"}
    assert sum(made.values()) == 30 and max(made.values()) - min(made.values()) <= 1, made


def test_a_viewer_who_is_ahead_is_not_generated_for(worker, line) -> None:
    line.inbox = [order("a", lead=1.25), messages.Playhead(session="a", seconds=0)]
    steps(worker, 20)
    assert len(line.of("a", messages.Fragment)) == 2
    line.inbox = [messages.Delivered(session="a", index=n) for n in (0, 1)] + [
        messages.Playhead(session="a", seconds=0.5)
    ]
    steps(worker, 20)
    assert len(line.of("a", messages.Fragment)) == 3


def test_a_viewer_who_receives_nothing_costs_one_chunk(pattern) -> None:
    line = Line(delivers=False)
    worker = Worker(line, pattern.PatternGenerator("test-tiny"), beat_seconds=1e9)
    line.inbox = [order("a", lead=1.25)]
    steps(worker, 20)
    assert len(line.of("a", messages.Fragment)) == 1


def test_while_nobody_is_due_the_worker_sleeps_instead_of_spinning(worker, line) -> None:
    line.inbox = [order("a", lead=1.0), messages.Playhead(session="a", seconds=0)]
    steps(worker, 3)
    assert len(line.of("a", messages.Fragment)) == 2  # 0.75 s ahead is due, 1.5 s is not
    line.waits.clear()
    steps(worker, 3)
    assert len(line.waits) == 3 and min(line.waits) > 1e6


def test_a_closed_session_is_forgotten_at_once(worker, line) -> None:
    line.inbox = [order("a")]
    steps(worker, 2)
    line.inbox = [messages.Close(session="a"), messages.Playhead(session="a", seconds=1), messages.Finish(session="a")]
    before = len(line.sent)
    steps(worker, 3)
    assert len(line.sent) == before and worker._sessions == {}


def test_a_session_that_fails_ends_alone_with_a_code(worker, line) -> None:
    line.inbox = [order("bad", "explode"), order("good", pictures=60)]
    steps(worker, 20)
    (ended,) = line.of("bad", messages.Ended)
    assert (ended.code, ended.chunks) == ("generation_failed", 2) and "the model exploded" in ended.message
    assert sum(f.pictures for f in line.of("good", messages.Fragment)) == 60
    assert worker._sessions == {}


def test_an_order_that_the_model_refuses_is_answered(line, pattern) -> None:
    class Refusing(pattern.PatternGenerator):
        def open(self, prompt, seed, cache):
            raise ValueError("no such cache")

    worker = Worker(line, Refusing("test-tiny"), beat_seconds=1e9)
    line.inbox = [order("a")]
    steps(worker, 2)
    (ended,) = line.of("a", messages.Ended)
    assert (ended.code, ended.message) == ("invalid_message", "no such cache")


def test_changes_that_arrive_together_are_applied_in_order_with_the_next_chunk(worker, line) -> None:
    line.inbox = [order("a")]
    steps(worker, 1)
    line.inbox += [
        messages.Interact(session="a", event_id=name, prompt=name, camera=None, chunks=1) for name in ("x", "y")
    ]
    steps(worker, 1)
    last = line.of("a", messages.Fragment)[-1]
    assert (last.started, last.active, last.completed, last.stats.prompt) == (["x", "y"], ["x", "y"], ["x", "y"], "y")


def test_background_sessions_take_turns_and_need_no_viewer(worker, line) -> None:
    line.inbox = [order(name, pictures=36, background=True) for name in ("a", "b")]
    steps(worker, 10)
    assert [m.session for m in line.sent if isinstance(m, messages.Fragment)] == ["a", "b"] * 3
    assert line.of("a", messages.Ended)[0].reason == "complete"


def test_a_background_session_gets_what_live_viewers_leave(worker, line, clock) -> None:
    """It waits for a viewer that is due and for one that would stall; it need not wait for a viewer that waits for a
    message."""
    line.inbox = [order("job", background=True), order("live", lead=1.25)]
    steps(worker, 2)
    assert [m.session for m in line.sent if isinstance(m, messages.Fragment)] == ["live", "live"]
    steps(worker, 2)  # 1.5 s ahead, a chunk takes no time
    assert len(line.of("job", messages.Fragment)) == 2
    worker._sessions["job"].last_seconds = 2.0  # longer than the viewer's slack
    steps(worker, 3)
    assert len(line.of("job", messages.Fragment)) == 2
    line.inbox.append(messages.Playhead(session="live", seconds=0))  # stands still: needs nothing
    steps(worker, 1)
    assert len(line.of("job", messages.Fragment)) == 3


def test_a_close_stops_the_chunk_in_hand_before_the_next_pass(pattern) -> None:
    class ClosedAtThirdPass(Line):
        def receive(self, wait):
            if len(self.waits) == 3:
                self.inbox.append(messages.Close(session="a"))
            return super().receive(wait)

    line = ClosedAtThirdPass()
    worker = Worker(line, pattern.PatternGenerator("test-tiny"), beat_seconds=1e9)
    line.inbox = [order("a"), order("b", pictures=12)]
    steps(worker, 3)
    assert line.of("a", messages.Fragment) == [] and list(worker._sessions) == []
    assert line.of("b", messages.Ended)[0].reason == "complete"


def test_between_two_passes_the_worker_beats(line, pattern) -> None:
    worker = Worker(line, pattern.PatternGenerator("test-tiny"), beat_seconds=0.0)
    line.inbox = [order("a")]
    steps(worker, 1)
    assert len([m for m in line.sent if isinstance(m, messages.Beat)]) == 1 + pattern.PASSES


def test_a_session_goes_on_in_another_worker_with_what_was_kept(pattern, decode) -> None:
    def run(line: Line, count: int, *orders: messages.Open) -> list[messages.Fragment]:
        worker = Worker(line, pattern.PatternGenerator("test-tiny"), beat_seconds=1e9)
        line.inbox = list(orders)
        steps(worker, count)
        return line.of("a", messages.Fragment)

    wanted = {"session": "a", "prompt": "the camera pans right", "pictures": 50}
    whole = run(Line(), 9, order(**wanted))
    memory = ResumePoint(spec_named("test-tiny"), CACHE)
    first = run(Line(), 2, order(**wanted))
    for fragment in first:
        memory.add(fragment)
    rest = run(Line(), 9, order(**wanted, past=memory.past()))
    assert [f.index for f in first + rest] == [0, 1, 2, 3, 4] == [f.index for f in whole]
    one, two = (decode(b"".join(f.data for f in film)) for film in (whole, first + rest))
    assert one.shape[0] == 50 and np.array_equal(one, two)


def test_finish_ends_behind_the_chunk_in_hand(worker, line) -> None:
    line.inbox = [order("a")]
    steps(worker, 2)
    line.inbox = [messages.Finish(session="a")]
    steps(worker, 2)
    (ended,) = line.of("a", messages.Ended)
    assert (ended.reason, ended.chunks) == ("stopped", 2)


def test_the_heartbeat_comes_from_the_step_loop(line, pattern) -> None:
    worker = Worker(line, pattern.PatternGenerator("test-tiny"), beat_seconds=0.0)
    steps(worker, 3)
    beats = [m for m in line.sent if isinstance(m, messages.Beat)]
    assert len(beats) == 3 and beats[0].rss_bytes > 1e6


def test_ready_is_said_only_after_a_warm_up_chunk(line, pattern) -> None:
    made = []

    class Counting(pattern.PatternGenerator):
        def open(self, prompt, seed, cache):
            made.append(prompt)
            return super().open(prompt, seed, cache)

    line.inbox = [CONFIGURE, messages.Shutdown()]
    assert serve(line, lambda configure: Counting(configure.model)) == 0
    assert made == ["warm up"] and isinstance(line.sent[0], messages.Ready)


def test_a_model_that_can_never_load_has_an_exit_status_of_its_own(line) -> None:
    def load(configure):
        raise StartError("dit.safetensors is missing")

    line.inbox = [CONFIGURE]
    assert serve(line, load) == START_FAILED
    assert line.sent == [messages.StartFailed(message="dit.safetensors is missing")]


def test_pictures_of_another_size_than_the_spec_are_found_at_the_start(line, pattern) -> None:
    class Wrong(pattern.PatternStream):
        def next_latents(self, before_pass):
            chunk = super().next_latents(before_pass)
            chunk.pictures = np.zeros((12, 8, 8, 3), np.uint8)
            return chunk

    class Generator(pattern.PatternGenerator):
        def open(self, prompt, seed, cache):
            return Wrong(prompt, seed, 128, 128)

    line.inbox = [CONFIGURE]
    assert serve(line, lambda configure: Generator(configure.model)) == START_FAILED


def test_after_a_device_error_the_process_does_not_go_on(worker, line, monkeypatch) -> None:
    class AcceleratorError(RuntimeError):
        pass

    line.inbox = [order("a")]
    steps(worker, 1)

    def lose(*_: object) -> None:
        raise AcceleratorError("lost")

    monkeypatch.setattr(worker._sessions["a"], "generate", lose)
    with pytest.raises(AcceleratorError):
        worker.step()
    assert device_suspect(AcceleratorError("x")) and device_suspect(RuntimeError("CUDA error: illegal"))
    assert not device_suspect(RuntimeError("shape")) and DEVICE_SUSPECT not in (0, START_FAILED)


def test_a_worker_whose_front_dies_exits_by_itself() -> None:
    root = Path(__file__).resolve().parents[3]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, str(Path(__file__).parents[1] / "pattern.py"), str(theirs.fileno())]
        environ = {**os.environ, "PYTHONPATH": str(root)}
        worker = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env=environ)
        theirs.close()
        ours.sendall(messages.frame(CONFIGURE))
        header = ours.recv(messages.HEADER.size, socket.MSG_WAITALL)
        ready = messages.decode_worker(ours.recv(messages.frame_length(header), socket.MSG_WAITALL))
        assert isinstance(ready, messages.Ready)
    assert worker.wait(30) == 0


@pytest.mark.parametrize("module", ["server.http.app", "server.http.service", "server.cli.main", "server.engine.local"])
def test_the_front_imports_neither_torch_nor_codecs(module) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'av', 'numpy'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
