"""Promise: a chunk is decoded and encoded while the next one is denoised, with the same result."""

from __future__ import annotations

import threading

import pytest

from server.ipc import messages
from server.worker.loop import Worker
from tests.server.worker.line import Line, film, order, steps


class Held(threading.Event):
    """A decoder that waits until told to continue; ``decoding`` is set while it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.decoding = threading.Event()


@pytest.fixture
def held(pattern, monkeypatch) -> Held:
    held, decode = Held(), pattern.PatternStream.decode

    def slowly(stream, chunk):
        held.decoding.set()
        assert held.wait(30)
        if "blind" in chunk.prompt and chunk.index == 1:
            raise pattern.NotFiniteError("the pictures dissolved")
        return decode(stream, chunk)

    monkeypatch.setattr(pattern.PatternStream, "decode", slowly)
    return held


@pytest.fixture
def overlapped(pattern):
    line, generator = Line(), pattern.PatternGenerator("test-tiny")
    executor = generator.decoding_thread()
    yield line, Worker(line, generator, beat_seconds=1e9, executor=executor)
    executor.shutdown()


def until_over(worker: Worker) -> None:
    worker.step()
    while worker._sessions:
        worker.step()


def test_the_next_chunk_begins_while_one_is_decoded_and_no_other(overlapped, held) -> None:
    line, worker = overlapped
    held.set()
    line.inbox = [order("a", pictures=60)]
    while not line.of("a", messages.Fragment):
        worker.step()
    held.clear()
    session = worker._sessions["a"]
    steps(worker, 2)
    assert (session.begun, session.chunks) == (3, 1)
    held.set()
    until_over(worker)
    assert [fragment.index for fragment in line.of("a", messages.Fragment)] == [0, 1, 2, 3, 4]
    assert line.of("a", messages.Ended)[0].reason == "complete"


def test_the_output_is_byte_for_byte_that_of_working_step_by_step(overlapped, pattern) -> None:
    line, worker = overlapped
    line.inbox = [order("one", "red", 1, pictures=40), order("two", "the camera pans left", 2, pictures=40)]
    until_over(worker)
    plain = Line()
    stepwise = Worker(plain, pattern.PatternGenerator("test-tiny"), beat_seconds=1e9)
    plain.inbox = [order("one", "red", 1, pictures=40), order("two", "the camera pans left", 2, pictures=40)]
    until_over(stepwise)
    for name in ("one", "two"):
        assert film(line, name) == film(plain, name) != b""


@pytest.mark.parametrize(
    ("message", "reason"), [(messages.Finish(session="a"), "stopped"), (messages.Shutdown(), None)]
)
def test_a_chunk_in_hand_is_sent_before_the_end(overlapped, held, message, reason) -> None:
    line, worker = overlapped
    line.inbox = [order("a")]
    steps(worker, 1)
    assert held.decoding.wait(30)
    line.inbox.append(message)
    threading.Timer(0.05, held.set).start()
    if reason:
        steps(worker, 1)
        (ended,) = line.of("a", messages.Ended)
        assert (ended.reason, ended.chunks) == (reason, len(line.of("a", messages.Fragment)))
    else:
        worker.run()
    assert line.of("a", messages.Fragment)[0].index == 0


def test_a_session_that_is_closed_while_its_chunk_is_decoded_sends_nothing_more(overlapped, held) -> None:
    line, worker = overlapped
    line.inbox = [order("a")]
    steps(worker, 1)
    line.inbox.append(messages.Close(session="a"))
    line.inbox.append(order("b", pictures=12))
    steps(worker, 1)
    held.set()
    until_over(worker)
    assert line.of("a", messages.Fragment) == [] and len(line.of("b", messages.Fragment)) == 1


def test_a_failed_decoding_ends_only_its_session_after_the_chunks_before(overlapped, held) -> None:
    line, worker = overlapped
    held.set()
    line.inbox = [order("bad", "blind"), order("good", pictures=60)]
    until_over(worker)
    (ended,) = line.of("bad", messages.Ended)
    assert (ended.code, ended.chunks) == ("not_finite", 1)
    assert [fragment.index for fragment in line.of("bad", messages.Fragment)] == [0]
    assert len(line.of("good", messages.Fragment)) == 5


def test_a_chunk_that_was_begun_before_a_failure_still_arrives(overlapped) -> None:
    line, worker = overlapped
    line.inbox = [order("bad", "explode")]
    until_over(worker)
    (ended,) = line.of("bad", messages.Ended)
    assert (ended.code, ended.chunks) == ("generation_failed", 2)
    assert [fragment.index for fragment in line.of("bad", messages.Fragment)] == [0, 1]
