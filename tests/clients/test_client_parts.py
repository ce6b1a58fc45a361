"""The client's pure parts: addresses, options, the simulated playhead, errors of proxies."""

from __future__ import annotations

import pytest
from pafu_client import PafuError, connect, models, wait_until_ready
from pafu_client.errors import ConnectionLost
from pafu_client.options import http_address, live_address, start_message
from pafu_client.playhead import Playhead


@pytest.mark.parametrize(
    "url",
    ["http://h:1", "h:1", "ws://h:1/", "http://h:1/v1/realtime/video", "ws://h:1/v1/realtime/video/"],
)
def test_every_way_to_write_the_server_leads_to_the_same_places(url: str) -> None:
    assert live_address(url) == "ws://h:1/v1/realtime/video"
    assert http_address(url) == "http://h:1"


def test_tls_and_a_path_prefix_are_kept() -> None:
    assert live_address("https://h/pafu") == "wss://h/pafu/v1/realtime/video"
    assert http_address("wss://h/pafu/v1/realtime/video") == "https://h/pafu"


@pytest.mark.parametrize("url", ["ftp://h", "http://", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(PafuError) as caught:
        live_address(url)
    assert caught.value.param == "url"


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="promt"):
        start_message({"promt": "a house"})


def test_a_viewer_in_real_time_plays_with_the_clock_and_waits_at_the_end_of_what_it_has() -> None:
    playhead = Playhead(realtime=True)
    assert playhead.position(5.0) == 0.0, "nothing taken, nothing played"
    playhead.take(0.75, now=10.0)
    assert playhead.position(10.5) == 0.5
    assert playhead.position(12.0) == 0.75
    playhead.take(0.75, now=20.0)
    assert playhead.position(20.0) == 0.75, "the wait does not count as play"
    assert playhead.position(20.5) == 1.25


def test_a_fast_reader_has_seen_all_it_took() -> None:
    playhead = Playhead(realtime=False)
    playhead.take(0.75, now=0.0)
    playhead.take(0.75, now=0.0)
    assert playhead.position(0.0) == 1.5


def test_http_refusals_keep_the_servers_words_and_survive_a_proxys() -> None:
    body = b'{"error": {"message": "bad origin", "code": "origin_not_allowed", "param": null, "type": "x"}}'
    ours = PafuError.from_http(403, body)
    assert (ours.code, ours.message, ours.param, ours.retryable) == ("origin_not_allowed", "bad origin", None, False)
    theirs = PafuError.from_http(502, b"<html>Bad Gateway</html>")
    assert (theirs.code, theirs.retryable) == ("http_502", True)


def test_a_lost_connection_is_a_pafu_error_that_may_be_tried_again() -> None:
    error = ConnectionLost(None, "")
    assert isinstance(error, PafuError) and error.code == "connection_lost" and error.retryable and error.message


async def test_no_server_is_said_with_the_address_and_what_to_do(unused_tcp_port: int) -> None:
    with pytest.raises(PafuError, match="pafu serve") as caught:
        async with connect(f"http://127.0.0.1:{unused_tcp_port}", prompt="x"):
            pass
    assert caught.value.code == "connect_failed" and str(unused_tcp_port) in caught.value.message


async def test_a_server_that_is_not_there_is_not_ready_and_has_no_models(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(PafuError, match="not ready within 0 s") as caught:
        await wait_until_ready(url, timeout=0)
    assert caught.value.code == "not_ready" and caught.value.retryable
    with pytest.raises(PafuError) as caught:
        await models(url)
    assert caught.value.code == "connect_failed"
