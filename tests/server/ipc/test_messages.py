"""Promise: only messages of the table cross between the processes, completely or not at all."""

from __future__ import annotations

import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ipc import messages
from server.ipc.channel import Channel, ChannelClosed
from server.ipc.messages import MessageError, decode_front, decode_worker, frame

OPEN = messages.Open(
    session="s",
    prompt="a hoüse",
    seed=2**63 - 1,
    lead_seconds=1.25,
    cache=messages.CacheChoice(policy="window", budget_latents=1.5, sink_latents=0, recent_latents=1),
    pictures=None,
)
FRONT = [
    messages.Configure(model="m", weights=None, device="cpu", threads=0, cache_room_bytes=0, beat_seconds=0.5),
    OPEN,
    messages.Interact(session="s", event_id="e", prompt=None, camera=messages.Camera(speed=-3), chunks=2),
    messages.Playhead(session="s", seconds=0.5),
    messages.Delivered(session="s", index=3),
    messages.Finish(session="s"),
    messages.Close(session="s"),
    messages.Shutdown(),
]


def body(message: messages.Message) -> bytes:
    return frame(message)[messages.HEADER.size :]


@pytest.mark.parametrize("message", FRONT, ids=lambda m: type(m).__name__)
def test_front_messages_arrive_as_they_were_sent(message) -> None:
    assert decode_front(body(message)) == message


def test_worker_messages_arrive_as_they_were_sent() -> None:
    for message in (
        messages.Beat(sessions=1, rss_bytes=5),
        messages.Opened(session="s", mime="video/mp4", init=b""),
        messages.Ended(session="s", chunks=3, reason="failed", code="generation_failed", message="why"),
        messages.StartFailed(message="why"),
    ):
        assert decode_worker(body(message)) == message


def test_neither_side_takes_the_others_messages() -> None:
    with pytest.raises(MessageError):
        decode_worker(body(OPEN))
    with pytest.raises(MessageError):
        decode_front(body(messages.StartFailed(message="")))


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage) -> None:
    with pytest.raises(MessageError):
        decode_front(garbage)


@pytest.mark.parametrize("change", [{"type": "exec"}, {"seed": "7"}, {"surplus": 1}])
def test_an_unknown_type_a_wrong_type_and_a_surplus_field_are_refused(change) -> None:
    fields = {**msgspec.msgpack.decode(body(OPEN)), **change}
    with pytest.raises(MessageError):
        decode_front(msgspec.msgpack.encode(fields))


def test_a_frame_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    with pytest.raises(MessageError, match=str(messages.MAX_FRAME)):
        messages.frame_length((messages.MAX_FRAME + 1).to_bytes(4, "big"))


@pytest.fixture
def line():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Channel(theirs)


def test_messages_that_arrive_byte_by_byte_are_put_together(line) -> None:
    front, channel = line
    sent = frame(OPEN) + frame(messages.Shutdown())
    received = []
    for at in range(len(sent)):
        front.sendall(sent[at : at + 1])
        received += channel.receive(0.0)
    assert received == [OPEN, messages.Shutdown()]


def test_messages_that_arrive_together_are_taken_apart(line) -> None:
    front, channel = line
    front.sendall(b"".join(map(frame, FRONT)))
    assert channel.receive(1.0) == FRONT


def test_nothing_to_read_is_no_message(line) -> None:
    assert line[1].receive(0.0) == []


def test_a_front_that_is_gone_is_noticed_when_reading_and_when_writing(line) -> None:
    front, channel = line
    front.close()
    with pytest.raises(ChannelClosed):
        channel.receive(1.0)
    with pytest.raises(ChannelClosed):
        channel.send(messages.StartFailed(message=""))
