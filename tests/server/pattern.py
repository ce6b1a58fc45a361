"""A test pattern instead of a model: its pictures encode prompt, seed, index and camera; it fails on demand. No torch.

As a program (``python pattern.py FD``) it is a complete worker with this model. Words in a prompt cause faults:
"explode" raises at the third chunk, "devour" runs out of memory there, "dissolve" gives a number that is not finite,
"brim" fills its cache, "die" ends the process at the second chunk, "hang" never ends it, "sleep" makes chunks slow,
"noise" makes them large.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cache.errors import CacheFull
from model.camera import CameraControl, CameraState
from model.spec import spec_named
from model.stream.chunk_stats import CameraView, ChunkStats, KeptTokens, blank
from server.ipc.messages import CacheChoice, Configure, Past, PastChunk
from server.worker import loop as worker
from server.worker.generator import Generator, StartError, pixels

PASSES = 5  # of the transformer, in a real model


class NotFiniteError(RuntimeError):
    """Has the name of model.stream.video_stream.NotFiniteError, without torch."""


@dataclass
class PatternChunk:
    pictures: np.ndarray
    index: int
    prompt: str
    began: CameraState
    camera: CameraState
    remembered: tuple[int, ...]

    @property
    def stats(self) -> ChunkStats:
        return blank(
            ChunkStats,
            seconds={"denoise": 0.0, "decode": 0.0},
            cache_tokens=192,
            cache_bytes=4096,
            cache_policy="sink_window",
            prompt=self.prompt,
            camera=CameraView(offset=self.camera.offset, speed=self.camera.speed),
        )


class PatternStream:
    """A coloured bar that moves: prompt and seed give its colours, index and camera its place."""

    def __init__(self, prompt: str, seed: int, width: int, height: int) -> None:
        self._prompt, self._seed, self._width, self._height = prompt, seed, width, height
        self._chunk, self._offset, self._speed = 0, 0, 0
        self._ground: list[int] | None = None  # of a picture that it begins with

    def begin_with(self, picture: np.ndarray) -> None:
        """Its colour becomes the ground's."""
        self._ground = picture.mean((0, 1)).round().astype(int).tolist()

    def kept(self) -> KeptTokens:
        """The newest latent frame, of 2 x 3 tokens."""
        return KeptTokens(rows=2, columns=3, latents=[3 * self._chunk - 1], kept=bytes(range(250, 256)), salience=b"")

    def set_prompt(self, text: str) -> None:
        if "refuse" in text:
            raise ValueError("this prompt is refused by the model")
        self._prompt = text

    def set_camera(self, control: CameraControl) -> None:
        if control.cut_to is not None:
            self._offset = round(control.cut_to * self._width)
        if control.speed is not None:
            self._speed = control.speed

    def next_latents(self, before_pass: Callable[[], None] | None = None) -> PatternChunk:
        for _ in range(PASSES):
            (before_pass or bool)()
            self._fault()
        began = CameraState(self._offset, self._speed)
        pictures = np.zeros((12, self._height, self._width, 3), np.uint8)
        key = zlib.crc32(f"{self._prompt}/{self._seed}".encode())
        pictures[...] = self._ground or (key & 127, key >> 8 & 127, key >> 16 & 127)
        for index in range(12):
            left = (self._offset + 4 * (self._chunk * 12 + index)) % (self._width - 16)
            pictures[index, :, left : left + 16] = 255 - pictures[index, 0, 0]
            self._offset += self._speed
        if "noise" in self._prompt:  # large fragments
            pictures = np.random.default_rng(self._chunk).integers(0, 255, pictures.shape, np.uint8)
        self._chunk += 1
        now = CameraState(self._offset, self._speed)
        return PatternChunk(pictures, self._chunk - 1, self._prompt, began, now, (0, self._chunk - 1))

    def decode(self, chunk: PatternChunk) -> PatternChunk:
        return chunk

    def recall(self, past: Past) -> None:
        """Checks that what comes back is what was kept."""
        assert [struct.unpack("<q", chunk.latents)[0] for chunk in past.chunks] == [c.index for c in past.chunks]
        camera = CameraState.of(past.camera)
        self._chunk, self._offset, self._speed = past.next_index, camera.offset, camera.speed

    def _fault(self) -> None:
        if "sleep" in self._prompt:
            time.sleep(0.3 / PASSES)
        if self._chunk == 1 and "die" in self._prompt:
            os._exit(9)
        if self._chunk == 1 and "hang" in self._prompt:
            time.sleep(3600)
        if self._chunk == 2:
            self._fail()

    def _fail(self) -> None:
        if "explode" in self._prompt:
            raise RuntimeError("the model exploded")
        if "devour" in self._prompt:
            raise MemoryError("the model devoured all memory")
        if "dissolve" in self._prompt:
            raise NotFiniteError("the model dissolved")
        if "brim" in self._prompt:
            raise CacheFull("policy 'full' never evicts")


class PatternGenerator:
    weights = "a test pattern"
    digest = "pattern"
    device = "cpu"
    versions: dict[str, str] = {}
    dtype = "float32"
    lacking = {"asked": "these weights have no head for 'asked'"}

    def __init__(self, model: str) -> None:
        self.spec = spec_named(model)

    def open(self, prompt: str, seed: int, cache: CacheChoice) -> PatternStream:
        return PatternStream(prompt, seed, self.spec.width, self.spec.height)

    def snapshot(self, stream: PatternStream) -> bytes:
        return json.dumps(vars(stream)).encode()

    def restore(self, snapshot: bytes) -> PatternStream:
        state = json.loads(snapshot)
        stream = self.open(state.pop("_prompt"), state.pop("_seed"), None)
        vars(stream).update(state)
        return stream

    def decoding_thread(self) -> Executor:
        return ThreadPoolExecutor(1, "decode")

    def free_bytes(self) -> int:
        return 2**30

    def working_bytes(self, cache: CacheChoice, text_placement: str) -> int:
        return 0

    def release_memory(self) -> None:
        pass

    def keep(self, chunk: PatternChunk) -> PastChunk:
        latents = struct.pack("<q", chunk.index)
        return PastChunk(index=chunk.index, prompt=chunk.prompt, camera=chunk.began.numbers, latents=latents)

    def begin_with(self, stream: PatternStream, image: bytes) -> None:
        stream.begin_with(pixels(image))

    def recall(self, stream: PatternStream, past: Past) -> None:
        stream.recall(past)


def load(configure: Configure) -> Generator:
    if configure.weights is not None:
        raise StartError(f"weights {configure.weights}: dit.safetensors is missing")
    return PatternGenerator(configure.model)


if __name__ == "__main__":
    os._exit(worker.main(load))
