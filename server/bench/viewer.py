"""A viewer that plays in real time and records its waits."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pafu_client import Chunk, VideoStream


@dataclass
class Seen:
    """What one viewer saw; all times are seconds.

    Playback starts with the first chunk, without buffering. A chunk that has not arrived when the previous picture ends
    has missed its deadline, and playback stalls until it arrives.
    """

    first_chunk: float | None = None  # after session.start
    gaps: list[float] = field(default_factory=list)  # between chunks
    misses: int = 0
    stalled: float = 0.0
    longest_stall: float = 0.0
    switch_arrived: list[float] = field(default_factory=list)  # from a prompt change to the chunk that shows it
    switch_shown: list[float] = field(default_factory=list)  # ... and to its first picture being played
    pictures: int = 0
    chunk_seconds: list[float] = field(default_factory=list)  # generation time of each chunk
    sent: int = 0  # bytes
    failure: str = ""

    @property
    def deadlines(self) -> int:
        """Number of chunks with a deadline: all but the first."""
        return len(self.gaps)


class Player:
    """The clock of a real-time viewer; records into ``seen``."""

    def __init__(self, fps: float, began: float, seen: Seen) -> None:
        self._fps, self._began, self.seen = fps, began, seen
        self._first = self._last = 0.0
        self._asked: dict[str, float] = {}  # prompt changes not yet in a chunk

    def ask(self, event_id: str, now: float) -> None:
        """The viewer requested a change."""
        self._asked[event_id] = now

    def take(self, chunk: Chunk, now: float) -> None:
        """A chunk arrived."""
        seen = self.seen
        if seen.first_chunk is None:
            seen.first_chunk, self._first = now - self._began, now
        else:
            seen.gaps.append(now - self._last)
        late = now - self._shows_next()
        if late > 0:
            seen.misses += 1
            seen.stalled += late
            seen.longest_stall = max(seen.longest_stall, late)
        for event_id in chunk.metadata.started_event_ids:
            if (asked := self._asked.pop(event_id, None)) is not None:
                seen.switch_arrived.append(now - asked)
                seen.switch_shown.append(self._shows_next() - asked)
        self._last = now
        seen.pictures += chunk.metadata.num_frames
        seen.chunk_seconds.append(chunk.metadata.stats.get("chunk_seconds", 0.0))
        seen.sent += len(chunk.data)

    def _shows_next(self) -> float:
        """When the next picture is due."""
        return self._first + self.seen.stalled + self.seen.pictures / self._fps


async def view(
    url: str,
    seen: Seen,
    *,
    pictures: int | None,
    fps: float,
    seed: int,
    prompts: Sequence[str],
    change_every: float = 0.0,
    told: Callable[[Chunk], None] = lambda chunk: None,
) -> None:
    """Play ``pictures`` in real time (None: forever); change the prompt about every ``change_every`` seconds."""
    from pafu_client import PafuError, connect

    dice = random.Random(seed)
    began = time.perf_counter()
    player = Player(fps, began, seen)
    wish: Any = {"prompt": prompts[seed % len(prompts)], "seed": seed}
    if pictures is not None:
        wish["num_frames"] = pictures
    try:
        async with connect(url, **wish) as stream:
            changing = asyncio.create_task(_change(stream, player, dice, prompts, change_every))
            try:
                async for chunk in stream:
                    player.take(chunk, time.perf_counter())
                    told(chunk)
            finally:
                changing.cancel()
                await asyncio.gather(changing, return_exceptions=True)
    except PafuError as error:
        seen.failure = error.message


async def _change(
    stream: VideoStream, player: Player, dice: random.Random, prompts: Sequence[str], every: float
) -> None:
    from pafu_client import PafuError

    with contextlib.suppress(PafuError):  # the receiving loop handles the end of the stream
        while every:
            await asyncio.sleep(dice.uniform(0.5, 1.5) * every)
            now = time.perf_counter()
            player.ask(await stream.interact(prompt=dice.choice(prompts)), now)
