"""A fuzzer for the live socket: wrong order, types and sizes, half-open connections, single bytes, floods.

The tests run a few dozen attacks; as a command it runs for a given time against its own server:

    python tests/server/socket_fuzz.py --minutes 60 --seed 1

The server may refuse or close the session with a documented code. It must not answer with an internal error, a 5xx or
a message that server.live.server_messages does not define, and it must still serve the next viewer. A finding names its
seed: the same seed repeats the attacks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from server.live.server_messages import SERVER_MESSAGES

HANDSHAKE = (
    "GET /v1/realtime/video HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# RFC 6455: 1002 and 1007 are the protocol's own; 1006 stands for a connection that was only cut
CODES = {1000, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1012, 1013}
START = {"type": "session.start", "prompt": "a bar", "num_frames": 24, "seed": 1}
HEARD_WITHIN = 60.0


class Finding(AssertionError):
    """The server did something forbidden; the message says how to reproduce it."""


def frame(opcode: int, payload: bytes, final: bool = True, mask: bool = True, length: int | None = None) -> bytes:
    """One client frame; ``length`` is the length that its header claims."""
    size = len(payload) if length is None else length
    first = (0x80 if final else 0) | opcode
    flag = 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", first, flag | size)
    elif size < 2**16:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    return head + (b"\0\0\0\0" + payload if mask else payload)  # masked with nothing


def text(message: Any) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


class Raw:
    """A raw connection, and what came back over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.close_code: int | None = None
        self.answers_pings = False

    @classmethod
    async def open(cls, port: int, handshake: bytes = HANDSHAKE.encode()) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        await raw.send(handshake)
        return raw

    async def send(self, data: bytes) -> None:
        """Bytes that the server no longer accepts are dropped silently."""
        with contextlib.suppress(OSError):
            self.writer.write(data)
            await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        for index in range(len(data)):
            await self.send(data[index : index + 1])
            await asyncio.sleep(0)

    async def accepted(self) -> bool:
        """Read the answer to the handshake. Raises Finding for a 5xx."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):
            return False
        status = int(head.split()[1])
        if status >= 500:
            raise Finding(f"the handshake was answered with {status}")
        return status == 101

    async def listen(self, messages: int = 10**9) -> None:
        """Read this many messages, or to the end. Raises Finding for a forbidden message."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while messages > 0:
                opcode, payload = await self._frame()
                messages -= opcode in (TEXT, BINARY)
                if opcode == TEXT:
                    self._judge(json.loads(payload))
                if opcode == PING and self.answers_pings:
                    await self.send(frame(PONG, payload))
                if opcode == CLOSE:
                    self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
                    return await self.send(frame(CLOSE, payload[:2]))

    async def _frame(self) -> tuple[int, bytes]:
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 15, await self.reader.readexactly(size)

    def _judge(self, message: dict[str, Any]) -> None:
        kind = SERVER_MESSAGES.get(message["type"])
        if kind is None:
            raise Finding(f"undocumented message {message['type']}")
        msgspec.convert(message, kind)
        if message.get("code") in ("internal_error", "generation_failed", "worker_failed"):
            raise Finding(f"the server failed: {message}")

    def cut(self) -> None:
        self.writer.transport.abort()


Attack = Callable[[random.Random, Raw], Awaitable[None]]


def nonsense(dice: random.Random) -> Any:
    """A JSON value of any kind."""
    return dice.choice(
        [
            None,
            True,
            0,
            -1,
            1e308,
            2**70,
            "",
            "x" * dice.randrange(5000),
            "\u0000",
            "\ud800",
            [],
            {},
            [[]],
            {"type": {}},
        ]
    )


def mutated(dice: random.Random, message: dict[str, Any]) -> dict[str, Any]:
    """The message with some fields missing, wrong, or added."""
    changed = json.loads(json.dumps(message))
    for _ in range(dice.randrange(1, 4)):
        place = changed
        while place and dice.random() < 0.5 and isinstance(inner := place[dice.choice(list(place))], dict):
            place = inner
        key = dice.choice([*place, "stranger"])
        if dice.random() < 0.3:
            place.pop(key, None)
        else:
            place[key] = nonsense(dice)
    return changed


CAMERA = {"multi_modal_data": {"camera": {"speed": 4}}}
CONTROLS = [
    START,
    {"type": "session.ping"},
    {"type": "session.playback", "position_seconds": 0.5},
    {"type": "session.interaction", "interaction": {"event": {"prompt": "a mill"}}},
    {"type": "session.interaction", "interaction": {"event_id": "e", "event": CAMERA, "transition_chunks": 2}},
    {"type": "session.stop"},
    {"type": "session.pause"},
    {"type": "session.resume", "session_id": "sess_0", "token": "x", "last_chunk_index": 3},
    {"type": "session.watch", "session_id": "sess_0"},
]


async def any_order(dice: random.Random, raw: Raw) -> None:
    for message in dice.choices(CONTROLS, k=dice.randrange(1, 12)):
        await raw.send(text(message))


async def wrong_fields_first(dice: random.Random, raw: Raw) -> None:
    await raw.send(text(mutated(dice, dice.choice(CONTROLS))))


async def wrong_fields_later(dice: random.Random, raw: Raw) -> None:
    await raw.send(text(START))
    for _ in range(dice.randrange(1, 30)):
        await raw.send(text(mutated(dice, dice.choice(CONTROLS))))


async def not_json(dice: random.Random, raw: Raw) -> None:
    choices = [b"", b"{", b"[" * 50_000, b"1" * 5000, b'{"type":' * 1000, b"NaN", b"\xff\xfe", b'"\\ud800"', b"null"]
    if dice.random() < 0.5:
        await raw.send(text(START))
    await raw.send(frame(TEXT, dice.choice(choices)))


async def binary(dice: random.Random, raw: Raw) -> None:
    if dice.random() < 0.5:
        await raw.send(text(START))
    await raw.send(frame(BINARY, dice.randbytes(dice.choice([0, 1, 1000, 100_000]))))


async def one_byte_at_a_time(dice: random.Random, raw: Raw) -> None:
    await raw.drip(text(START) + text({"type": "session.stop"}))


async def in_pieces(dice: random.Random, raw: Raw) -> None:
    """One message in many frames, with pings in between; sometimes without an end."""
    data = json.dumps(START).encode()
    for index, byte in enumerate(data):
        final = index == len(data) - 1 and dice.random() < 0.7
        await raw.send(frame(TEXT if index == 0 else CONTINUATION, bytes([byte]), final))
        if dice.random() < 0.1:
            await raw.send(frame(PING, b"p"))


async def endless_pieces(dice: random.Random, raw: Raw) -> None:
    """A message whose frames exceed every limit."""
    await raw.send(frame(TEXT, b'"', final=False))
    for _ in range(6 * 16):
        await raw.send(frame(CONTINUATION, b"x" * 2**16, final=False))


async def too_large(dice: random.Random, raw: Raw) -> None:
    size = dice.choice([128 * 2**10, 4 * 2**20, 4 * 2**20 + 2**17])
    if dice.random() < 0.5:
        await raw.send(text(START))
    await raw.send(text({"type": "session.ping", "padding": "x" * size}))


async def lies_about_its_length(dice: random.Random, raw: Raw) -> None:
    await raw.send(frame(TEXT, b"{}", length=dice.choice([3, 70_000, 2**31, 2**62, 2**63])))


async def breaks_the_frames(dice: random.Random, raw: Raw) -> None:
    """Unmasked frames, reserved opcodes and bits, long control frames, stray continuations, wrong close codes."""
    broken = [
        frame(TEXT, b"{}", mask=False),
        frame(dice.choice([3, 7, 11, 15]), b""),
        bytes([0xF1]) + frame(TEXT, b"{}")[1:],
        frame(PING, b"x" * 126),
        frame(PING, b"", final=False),
        frame(CONTINUATION, b"x"),
        frame(CLOSE, b"\0"),
        frame(CLOSE, (999).to_bytes(2, "big")),
        frame(CLOSE, (1005).to_bytes(2, "big")),
        frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"),
        dice.randbytes(200),
    ]
    if dice.random() < 0.5:
        await raw.send(text(START))
    await raw.send(dice.choice(broken))


async def floods(dice: random.Random, raw: Raw) -> None:
    """As many messages as fit in the pipes."""
    flood = dice.choice([frame(PING, b""), text({"type": "session.ping"}), text(CONTROLS[2]), text(CONTROLS[3])])
    await raw.send(text(START))
    await raw.send(flood * dice.choice([50, 2000]))


async def leaves_half_open(dice: random.Random, raw: Raw) -> None:
    """Closes only the sending side."""
    await raw.send(text(START))
    with contextlib.suppress(OSError):
        raw.writer.write_eof()


async def vanishes(dice: random.Random, raw: Raw) -> None:
    await raw.send(text(START)[: dice.randrange(1, 90)])
    await asyncio.sleep(dice.random() * 0.05)
    raw.cut()


ATTACKS: list[Attack] = [
    any_order,
    wrong_fields_first,
    wrong_fields_later,
    not_json,
    binary,
    one_byte_at_a_time,
    in_pieces,
    endless_pieces,
    too_large,
    lies_about_its_length,
    breaks_the_frames,
    floods,
    leaves_half_open,
    vanishes,
]


async def attack(port: int, which: Attack, seed: int) -> int | None:
    """One attack; returns its kind and the close code, None if the server continues (and the attacker gives up)."""
    dice = random.Random(f"{which.__name__}/{seed}")
    raw = await Raw.open(port)
    try:
        async with asyncio.timeout(HEARD_WITHIN):
            if not await raw.accepted():
                return 1006
            listening = asyncio.create_task(raw.listen())
            await which(dice, raw)
            await asyncio.wait((listening,), timeout=dice.choice([0.0, 0.2, 1.0]))
            if not listening.done():
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                return None
            await listening
    except TimeoutError:
        pass  # the server lets an attacker wait; that its next viewer does not is for the caller to see
    except Exception as error:
        raise Finding(f"{which.__name__}, seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        raw.cut()
    if raw.close_code is not None and raw.close_code not in CODES:
        raise Finding(f"{which.__name__}, seed {seed}: close code {raw.close_code}")
    return 1006 if raw.close_code is None else raw.close_code


async def works(port: int) -> None:
    """A good viewer gets all its pictures. Raises Finding."""
    raw = await Raw.open(port)
    raw.answers_pings = True  # on a busy machine its video takes longer than the server waits for an answer
    try:
        async with asyncio.timeout(60):
            if not await raw.accepted():
                raise Finding("a good handshake is refused")
            await raw.send(text(START))
            await raw.listen()
    except TimeoutError:
        raise Finding("a good viewer got no video in 60 s") from None
    finally:
        raw.cut()
    if raw.close_code != 1000:
        raise Finding(f"a good viewer's session ended with {raw.close_code}")


async def fuzz(port: int, seed: int, until: float, say: Callable[[str], None]) -> Counter[str]:
    """Run attacks, several at once, until this time.monotonic(); returns the outcomes by attack and code."""
    seen: Counter[str] = Counter()
    while time.monotonic() < until:
        dice = random.Random(seed)
        chosen = dice.choices(ATTACKS, k=4)
        codes = await asyncio.gather(*(attack(port, which, seed) for which in chosen))
        seen.update(f"{which.__name__} -> {code}" for which, code in zip(chosen, codes, strict=True))
        seed += 1
        if seed % 25 == 0:
            await works(port)
            say(f"{seen.total()} attacks, next seed {seed}")
    await works(port)
    return seen


def main() -> None:
    from server.bench.launch import get_json, launched

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with launched(max_sessions=4, model="test-tiny") as server:
        server.wait_ready()
        url = server.url()
        memory = []  # MiB of the front

        def say(line: str) -> None:
            memory.append(get_json(f"{url}/health")[1]["front"]["rss_bytes"] / 2**20)
            print(f"{line}; front {memory[-1]:.0f} MiB", flush=True)

        say("before")
        until = time.monotonic() + 60 * given.minutes
        seen = asyncio.run(fuzz(int(url.rsplit(":", 1)[1]), given.seed, until, say))
        after = get_json(f"{url}/health")[1]
        print("\n".join(f"{count:6} {outcome}" for outcome, count in sorted(seen.items())))
        restarts = sum(worker["restarts"] for worker in after["workers"])
        print(f"{seen.total()} attacks; sessions left {after['sessions']}, worker restarts {restarts}")
        half = len(memory) // 2
        print(f"front: {memory[0]:.0f} MiB before; at most {max(memory[: half + 1]):.0f} in the first half of the")
        print(f"attacks, {max(memory[half:]):.0f} in the second, {memory[-1]:.0f} at the end")
        failures = [line for line in server.lines if "ASGI application" in line or "never retrieved" in line]
        print("\n".join(failures) or "no failure in the log")


if __name__ == "__main__":
    main()
