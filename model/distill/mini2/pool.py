"""A pool of rendered clips in memory that many processes fill and one trainer empties.

The memory is one anonymous shared mapping, created before the workers fork: pictures are neither copied nor pickled,
and /dev/shm's limit does not apply. Start it before the process touches the GPU.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any

import numpy as np

Words = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator, int], "DrawnClip"]


@dataclass(frozen=True)
class DrawnClip:
    """views (F, H, W, 3) uint8, parallax (F, H, W) uint8 in hundredths; words: small arrays with the same shape for
    every clip."""

    views: np.ndarray
    parallax: np.ndarray
    words: Words


class ClipPool:
    """``slots`` clips of ``chunks`` chunks; ``shape`` is (F, H, W) of a clip."""

    def __init__(self, draw: Draw, shape: tuple[int, int, int], chunks: int, slots: int, workers: int, seed: int):
        self._memory = mmap.mmap(-1, slots * int(np.prod(shape)) * 4)
        flat = np.frombuffer(self._memory, np.uint8)
        size = slots * int(np.prod(shape))
        self.views = flat[: 3 * size].reshape(slots, *shape, 3)
        self.parallax = flat[3 * size :].reshape(slots, *shape)
        self.words: dict[int, Words] = {}  # of the filled slots
        self._filled: list[int] = []
        context = multiprocessing.get_context("fork")
        self._free: Any = context.Queue()
        self._done: Any = context.Queue()
        for slot in range(slots):
            self._free.put(slot)
        self._workers = [
            context.Process(target=self._work, args=(draw, chunks, (seed, worker)), daemon=True)
            for worker in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def _work(self, draw: Draw, chunks: int, seed: tuple[int, int]) -> None:
        """A worker process: renders a clip into every free slot that it receives."""
        os.nice(5)
        import torch

        torch.set_num_threads(1)
        rng = np.random.default_rng(seed)
        while True:
            clip = draw(rng, chunks)
            slot = self._free.get()
            self.views[slot], self.parallax[slot] = clip.views, clip.parallax
            self._done.put((slot, clip.words))

    def gather(self, at_least: int = 0) -> int:
        """Register finished clips, waiting until ``at_least`` slots are filled; returns the number of filled slots.

        Raises RuntimeError if all workers have died.
        """
        while True:
            try:
                slot, words = self._done.get(block=len(self._filled) < at_least, timeout=30)
            except Empty:
                if len(self._filled) >= at_least:
                    return len(self._filled)
                if not any(worker.is_alive() for worker in self._workers):
                    raise RuntimeError("every rendering process has died; see the errors above") from None
                continue
            self.words[slot] = words
            self._filled.append(slot)

    def filled(self) -> list[int]:
        return list(self._filled)

    def release(self, slots: list[int]) -> None:
        """Free the clips in ``slots``."""
        gone = set(slots)
        self._filled = [slot for slot in self._filled if slot not in gone]
        for slot in slots:
            self.words.pop(slot)
            self._free.put(slot)

    def crops(self, rng: np.random.Generator, count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """``count`` crops of random views: (count, height, width, 3) and parallax (count, height, width), uint8."""
        _, frames, full_height, full_width = self.parallax.shape
        views = np.empty((count, height, width, 3), np.uint8)
        parallax = np.empty((count, height, width), np.uint8)
        slots = rng.choice(np.array(self._filled), count)
        frame = rng.integers(0, frames, count)
        rows, columns = rng.integers(0, full_height - height + 1, count), rng.integers(0, full_width - width + 1, count)
        for i, (slot, f, y, x) in enumerate(zip(slots, frame, rows, columns, strict=True)):
            views[i] = self.views[slot, f, y : y + height, x : x + width]
            parallax[i] = self.parallax[slot, f, y : y + height, x : x + width]
        return views, parallax

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()
