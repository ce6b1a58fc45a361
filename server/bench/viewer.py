"""A viewer that plays in real time and writes down what it had to wait for."""

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

    It begins to play with its first chunk, holding nothing back. A chunk that is not there when the picture before it
    has been shown has missed its deadline; the viewer stands still until it comes.
    """

    first_chunk: float | None = None  # after session.start
    gaps: list[float] = field(default_factory=list)  # between chunks
    misses: int = 0
    stalled: float = 0.0
    longest_stall: float = 0.0
    switch_arrived: list[float] = field(default_factory=list)  # from a change of the prompt to the chunk that shows it
    switch_shown: list[float] = field(default_factory=list)  # ... and to the moment when its first picture is played
    pictures: int = 0
    chunk_seconds: list[float] = field(default_factory=list)  # what making each chunk took
    sent: int = 0  # bytes
    failure: str = ""

    @property
    def deadlines(self) -> int:
        """Chunks that had one: all but the first."""
        return len(self.gaps)


class Player:
    """The clock of a viewer in real time; it fills in ``seen``."""

    def __init__(self, fps: float, began: float, seen: Seen) -> None:
        self._fps, self._began, self.seen = fps, began, seen
        self._first = self._last = 0.0
        self._asked: dict[str, float] = {}  # changes of the prompt that no chunk has shown yet

    def ask(self, event_id: str, now: float) -> None:
        """The viewer asked for a change."""
        self._asked[event_id] = now

    def take(self, chunk: Chunk, now: float) -> None:
        """A chunk came whole."""
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
        """When the picture behind all those that came is to be shown."""
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
    """Play so many pictures in real time (None: for ever), and change the prompt about every so many seconds."""
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

    with contextlib.suppress(PafuError):  # the stream's end is told by its chunks
        while every:
            await asyncio.sleep(dice.uniform(0.5, 1.5) * every)
            now = time.perf_counter()
            player.ask(await stream.interact(prompt=dice.choice(prompts)), now)
