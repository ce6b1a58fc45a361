"""One session in the worker: stream, encoder, playout clock and pending changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from model.camera import CameraControl, camera_from_prompt
from model.spec import ModelSpec
from model.stream.chunk_stats import KeptTokens
from server.ipc.messages import Fragment, Interact, Open, Past, Rejected, ServedStats
from server.media.encoder import H264Encoder
from server.media.fmp4 import FragmentMuxer
from server.media.jpeg import JpegEncoder
from server.worker.generator import GeneratedChunk, Generator, Stream
from server.worker.scheduler import Playout


@dataclass
class Events:
    """Ids of the interactions that start with a chunk, are active during it, and end with it."""

    started: list[str] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BegunChunk:
    """A denoised chunk with its changes; ``began``: start time (perf_counter)."""

    index: int
    latents: Any  # input of Stream.decode
    pictures: int  # number to keep
    events: Events
    memory: KeptTokens | None
    began: float


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk ready to be sent; ``seconds``: encoding time."""

    begun: BegunChunk
    chunk: GeneratedChunk
    data: bytes
    jpegs: list[bytes]
    seconds: float


class WorkerSession:
    """One session. The step loop calls all methods except ``encode``, which one other thread calls in chunk order."""

    def __init__(self, order: Open, generator: Generator) -> None:
        spec = generator.spec
        self.id = order.session
        ids = {"session_id": order.session, "request_id": order.request, "trace_id": order.trace}
        self.ids = {name: value for name, value in ids.items() if value}
        self.background = order.background
        self.last_seconds = 0.0  # time of the newest chunk
        self.last_served = 0.0
        self._generator = generator
        self.spec: ModelSpec = spec
        self.playout = Playout(order.lead_seconds)
        self.pending: list[Interact] = list(order.changes)
        self.begun = self.chunks = 0  # chunks denoised, chunks sent
        stored = order.cache.config.layer_budgets(spec.tokens_per_latent, spec.num_layers)
        self.cache_budget = max(stored)  # tokens of the largest layer
        self.cache_tokens = self.cache_bytes = 0  # after the newest chunk
        self._remaining = order.pictures
        self._memory = order.memory
        self._in_force = dict(order.in_force)
        self._undelivered: dict[int, float] = {}
        self._stream: Stream = self._open(order)
        self._jpeg = JpegEncoder(spec.width, spec.height, spec.fps)
        self.jpeg = order.jpeg
        self._encoder = H264Encoder(spec.width, spec.height, spec.fps)
        self._muxer = FragmentMuxer(spec.width, spec.height, spec.fps, self._encoder.avcc)
        if order.past is not None:
            self._continue(order.past)
        if not self.begun and spec.camera and (control := camera_from_prompt(order.prompt)):
            self._stream.set_camera(control)

    def _open(self, order: Open) -> Stream:
        """Create the stream: new, restored from a snapshot, or rebuilt from a lost stream's latents."""
        if order.snapshot is not None:
            return self._generator.restore(Path(order.snapshot).read_bytes())
        stream = self._generator.open(order.prompt, order.seed, order.cache)
        if order.past is not None and order.past.next_index:
            self._generator.recall(stream, order.past)
        elif order.image:
            self._generator.begin_with(stream, order.image)
        return stream

    def _continue(self, past: Past) -> None:
        """Continue a stream whose earlier part another worker made: same indices and timestamps."""
        self.begun = self.chunks = past.next_index
        self._muxer.continue_after(past.next_index, past.pictures)
        self.playout.continue_after(past.pictures / self.spec.fps)
        if self._remaining is not None:
            self._remaining -= past.pictures

    @property
    def mime(self) -> str:
        """Media type with the codec string of the encoder's SPS."""
        return f'video/mp4; codecs="{self._encoder.codec}"'

    @property
    def init(self) -> bytes:
        """ftyp and moov, which a player needs before any fragment."""
        return self._muxer.init_segment

    def snapshot(self) -> bytes:
        """The stream's complete state."""
        return self._generator.snapshot(self._stream)

    @property
    def complete(self) -> bool:
        """Whether all requested pictures have been started."""
        return self._remaining == 0

    @property
    def sent(self) -> bool:
        """Whether all started chunks have been sent."""
        return self.chunks == self.begun

    def apply_pending(self) -> tuple[Events, list[Rejected]]:
        """Apply the due changes to the stream, in order, for the next chunk."""
        events, refused = Events(), []
        due = [change for change in self.pending if change.at_chunk <= self.begun]
        self.pending = [change for change in self.pending if change.at_chunk > self.begun]
        for change in due:
            try:
                self._apply(change)
            except ValueError as error:  # refused by the model: the session continues unchanged
                refused.append(Rejected(session=self.id, event_id=change.event_id, message=str(error)))
                continue
            events.started.append(change.event_id)
            self._in_force[change.event_id] = change.chunks
        return events, refused

    def _apply(self, change: Interact) -> None:
        control = None
        if change.camera is not None:
            control = CameraControl(**msgspec.structs.asdict(change.camera))
        elif change.prompt is not None and self.spec.camera:
            control = camera_from_prompt(change.prompt)
        if change.prompt is not None:
            self._stream.set_prompt(change.prompt)
        if control is not None:
            self._stream.set_camera(control)

    def generate(self, events: Events, before_pass: Callable[[], None] | None = None) -> BegunChunk:
        """Denoise the next chunk and count it in the playout clock; ``before_pass`` may raise to abandon it."""
        began = time.perf_counter()
        latents = self._stream.next_latents(before_pass)
        index, pictures = self.begun, self.spec.pictures_in_chunk(self.begun)
        if self._remaining is not None:
            pictures = min(pictures, self._remaining)
            self._remaining -= pictures
        events.active = list(self._in_force)
        self._in_force = {name: left - 1 for name, left in self._in_force.items()}
        events.completed = [name for name, left in self._in_force.items() if left <= 0]
        self._in_force = {name: left for name, left in self._in_force.items() if left > 0}
        self.begun += 1
        self.playout.add_generated(pictures / self.spec.fps)
        self.last_served = time.perf_counter()
        memory = self._stream.kept() if self._memory else None
        return BegunChunk(index, latents, pictures, events, memory, began)

    def encode(self, begun: BegunChunk) -> EncodedChunk:
        """Decode the chunk and encode its pictures."""
        chunk = self._stream.decode(begun.latents)
        began = time.perf_counter()
        pictures = chunk.pictures[: begun.pictures]
        data = self._muxer.fragment(self._encoder.encode(pictures))
        if begun.index == 0:
            data = self._muxer.init_segment + data
        jpegs = self._jpeg.encode(pictures) if self.jpeg else []
        return EncodedChunk(begun, chunk, data, jpegs, time.perf_counter() - began)

    def deliver(self, made: EncodedChunk) -> Fragment:
        """The message that sends the chunk to the front; counts it as sent."""
        begun, chunk = made.begun, made.chunk
        media = begun.pictures / self.spec.fps
        self.chunks += 1
        self.playout.add_sent(media)
        self._undelivered[begun.index] = media
        self.cache_tokens, self.cache_bytes = chunk.stats.cache_tokens, chunk.stats.cache_bytes
        self.last_seconds = time.perf_counter() - begun.began
        return Fragment(
            session=self.id,
            index=begun.index,
            pictures=begun.pictures,
            data=made.data,
            started=begun.events.started,
            active=begun.events.active,
            completed=begun.events.completed,
            stats=ServedStats.of(
                chunk.stats,
                seconds={**chunk.stats.seconds, "encode": made.seconds, "total": self.last_seconds},
                lead_seconds=self.playout.lead(time.monotonic()),
                memory=begun.memory,
            ),
            past=self._generator.keep(chunk),
            camera=chunk.camera.numbers,
            remembered=list(chunk.remembered),
            jpegs=made.jpegs,
        )

    def delivered(self, index: int, now: float) -> None:
        """The fragment was delivered to the viewer."""
        if media := self._undelivered.pop(index, 0.0):
            self.playout.add_delivered(media, now)
