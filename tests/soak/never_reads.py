"""The cost of two passive viewers: one never reads, the other reads but never reports its playhead.

    python tests/soak/never_reads.py

The server buffers generated video that has not left for the viewer's machine. It is measured from outside: the chunks
that /v1/sessions reports, minus what is unread at this end of the connection. The exit status is 0 only if both viewers
cost at most a second of video.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import struct
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from server.bench.launch import get_json, launched
from server.bench.target import MIB

HANDSHAKE = (
    "GET /v1/realtime/video HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, BINARY = 1, 2
PATIENCE = 120.0
STILL_FOR = 2.0  # seconds without a change behind the first second of a stall
ALLOWED = 1.0  # seconds of video


def begin(port: int, start: dict[str, Any], receive_buffer: int | None = None) -> socket.socket:
    """A connection that has requested a session and read only the handshake's answer."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    payload = json.dumps({"type": "session.start", **start}).encode()
    head = struct.pack("!BBH", 0x80 | TEXT, 0x80 | 126, len(payload))
    sock.sendall(HANDSHAKE.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    sock.sendall(head + b"\0\0\0\0" + payload)  # masked with nothing
    return sock


def unread(sock: socket.socket) -> bytes:
    """All bytes in this end of the connection, left there."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return sock.recv(64 * MIB, socket.MSG_PEEK)
    return b""


def frames(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Opcode, available payload, and total length of each WebSocket frame."""
    at = 0
    while at <= len(data) - 2:
        size, head = data[at + 1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            if at + head > len(data):
                return
            size = int.from_bytes(data[at + 2 : at + head], "big")
        yield data[at] & 15, data[at + head : at + head + size], size
        at += head + size


def media(data: bytes, fps: float) -> float:
    """Seconds of video in these bytes, counting partial chunks."""
    seconds = pictures = 0.0
    for opcode, payload, size in frames(data):
        if opcode == TEXT and len(payload) == size:
            pictures = json.loads(payload).get("num_frames", 0.0)
        elif opcode == BINARY:
            seconds += pictures / fps * len(payload) / size
    return seconds


def stalled(url: str) -> bool:
    """Whether the server has a chunk that its viewer does not take."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return any(line.startswith("pafu_viewers_stalled") and line.endswith(" 1.0") for line in text.splitlines())


def never_reads(url: str, fps: float, chunk_seconds: float, sock: socket.socket) -> dict[str, float]:
    """Generated and sent video once nothing changes any more."""
    before, since, give_up = None, time.monotonic(), time.monotonic() + PATIENCE
    while time.monotonic() - since < STILL_FOR or before is None or not stalled(url):
        if time.monotonic() > give_up:
            raise TimeoutError("the server neither stalled nor stood still for a viewer who does not read")
        sessions = get_json(f"{url}/v1/sessions")[1]["data"]
        now = sum(session["chunks"] for session in sessions), unread(sock)
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.1)
    made, left = before[0] * chunk_seconds, media(before[1], fps)
    return {"made": made, "left": round(left, 3), "held": round(made - left, 3), "left_bytes": len(before[1])}


def never_reports(url: str, sock: socket.socket, seconds: float) -> dict[str, float]:
    """The most video that the server keeps for a viewer who reads everything at once but never reports."""
    sock.setblocking(True)
    sock.settimeout(0.05)
    most, taken, give_up = 0, 0, time.monotonic() + seconds
    sessions: list[dict[str, Any]] = []
    while time.monotonic() < give_up:
        with contextlib.suppress(TimeoutError):
            taken += len(sock.recv(MIB))
        sessions = get_json(f"{url}/v1/sessions")[1]["data"]
        most = max([most, *(session["replay_bytes"] for session in sessions)])
    chunks = sum(session["chunks"] for session in sessions)
    mean = taken / max(1, chunks)
    return {"chunks": chunks, "held_bytes": most, "bytes_of_a_chunk": round(mean), "taken_bytes": taken}


def run(options: argparse.Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as data,
        launched(
            model=options.model, threads=options.threads, data_dir=data, keep_on_device=0, keep_on_disk=0
        ) as server,
    ):
        server.wait_ready()
        url = server.url()
        port, model = int(url.rsplit(":", 1)[1]), get_json(f"{url}/v1/models")[1]["data"][0]
        chunk = model["chunk_frames"] / model["fps"]
        start = {"prompt": (model["examples"] or ["a bar"])[0], "seed": 1}
        with begin(port, start, options.receive_buffer) as sock:
            never = never_reads(url, model["fps"], chunk, sock)
        while get_json(f"{url}/health")[1]["sessions"]:
            time.sleep(0.1)
        with begin(port, start) as sock:
            silent = never_reports(url, sock, 10.0)
    return {"model": model["id"], "seconds of video, never reads": never, "never reports": silent}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pafu-mini")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--receive-buffer", type=int, default=16 * 2**10, help="bytes that the viewer's own end takes")
    report = run(parser.parse_args())
    print(json.dumps(report, indent=1))
    silent = report["never reports"]
    held = report["seconds of video, never reads"]["held"]
    return 0 if held <= ALLOWED and silent["held_bytes"] <= 1.34 * silent["bytes_of_a_chunk"] else 1


if __name__ == "__main__":
    sys.exit(main())
