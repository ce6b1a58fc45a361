"""Options and messages that request a stream or a video; shared by the async and the sync client."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Required, TypedDict
from urllib.parse import urlsplit, urlunsplit

from pafu_client.errors import PafuError
from pafu_client.messages import Event
from pafu_client.pictures import Picture, data_url

LIVE_PATH = "/v1/realtime/video"
_SIZE = ("width", "height", "fps", "num_frames")
_PASSED = ("extra_params", "streaming_buffer_seconds", "memory", "interactions")
_WIRE = ("model", "prompt", "format", *_SIZE, "seed", *_PASSED)


class WatchOptions(TypedDict, total=False):
    """Keyword arguments of ``watch``; the server chooses what is not given."""

    format: str  # "m4s" (the default), "h264" for WebCodecs, "jpeg"
    resume_within: float  # seconds to try to resume after a lost connection (60); 0: raise ConnectionLost at once
    on_event: Callable[[Event], None]  # called for every event of a change, the session or its connection
    api_key: str  # for servers with keys; default: the variable PAFU_API_KEY
    headers: Mapping[str, str]  # headers of the WebSocket handshake
    open_timeout: float  # seconds to wait for video.start (60)


class Options(WatchOptions, total=False):
    """Keyword arguments of ``connect``; the server chooses what is not given."""

    prompt: Required[str]
    model: str
    seed: int
    width: int
    height: int
    fps: int
    num_frames: int  # length in pictures; default: endless
    image: Picture  # the first picture: a file, its bytes, or a data URL
    extra_params: Mapping[str, Any]
    streaming_buffer_seconds: float  # how far the server may run ahead of the playhead
    memory: bool  # include the kept tokens in each chunk's statistics
    interactions: Sequence[Mapping[str, Any]]  # changes known in advance, each with its at_chunk
    # True: play in real time. False: as fast as the server generates. None: you report the playhead
    realtime: bool | None


class StillOptions(TypedDict, total=False):
    """Keyword arguments of ``still``; the server chooses what is not given."""

    model: str
    seed: int
    image: Picture
    extra_params: Mapping[str, Any]
    interactions: Sequence[Mapping[str, Any]]
    api_key: str
    headers: Mapping[str, str]
    open_timeout: float


class VideoOptions(TypedDict, total=False):
    """Keyword arguments of ``Jobs.create``; the server chooses what is not given."""

    seconds: float  # length (4), or use:
    num_frames: int  # pictures
    seed: int
    model: str
    width: int
    height: int
    fps: int
    image: Picture  # the first picture: a file, its bytes, or a data URL
    extra_params: Mapping[str, Any]


def key_headers(api_key: str | None = None) -> dict[str, str]:
    """The Authorization header, from the given key or the variable PAFU_API_KEY."""
    key = api_key or os.environ.get("PAFU_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def start_message(options: Mapping[str, Any]) -> dict[str, Any]:
    """``session.start`` with the given options. Raises TypeError for an unknown option."""
    check_names("connect", options, Options.__annotations__)
    given = {name: options[name] for name in _WIRE if options.get(name) is not None}
    if options.get("image") is not None:
        given["image"] = data_url(options["image"])
    return {"type": "session.start", "format": "m4s", **given}


def video_order(prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of ``POST /v1/videos``. Raises TypeError for an unknown option."""
    check_names("create", options, VideoOptions.__annotations__)
    order = {name: value for name, value in options.items() if value is not None}
    if "image" in order:
        order["input_reference"] = data_url(order.pop("image"))
    return {"prompt": prompt, **order}


def watch_message(session_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``session.watch``. Raises TypeError for an unknown option."""
    check_names("watch", options, WatchOptions.__annotations__)
    return {"type": "session.watch", "session_id": session_id, "format": options.get("format") or "m4s"}


def check_names(caller: str, options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises TypeError for an option that ``caller`` does not have."""
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"{caller}() has no option {', '.join(unknown)}; known: {', '.join(known)}")


def live_address(url: str) -> str:
    """The WebSocket URL for a server's URL: http(s) or ws(s), with or without the path."""
    scheme, host, path, query, _ = urlsplit(_with_scheme(url))
    path = path.rstrip("/")
    path = path if path.endswith(LIVE_PATH) else path + LIVE_PATH
    return urlunsplit(({"http": "ws", "https": "wss"}.get(scheme, scheme), host, path, query, ""))


def http_address(url: str) -> str:
    """The server's HTTP URL without a trailing slash."""
    scheme, host, path, _, _ = urlsplit(_with_scheme(url))
    path = path.rstrip("/").removesuffix(LIVE_PATH)
    return urlunsplit(({"ws": "http", "wss": "https"}.get(scheme, scheme), host, path, "", ""))


def _with_scheme(url: str) -> str:
    full = url if "://" in url else f"http://{url}"
    parts = urlsplit(full)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
        raise PafuError("bad_url", f"{url!r} is not a server address; use one like http://127.0.0.1:8000", "url")
    return full
