"""One session's generation: chunk after chunk of pictures from a prompt, a seed and a camera.

Denoising passes over (cache + chunk) turn noise into a chunk's latents. A clean pass then writes its keys and values,
the policy prunes the cache to its budget, and the VAE decodes the latents. The same seed with the same changes at the
same chunks gives the same bits on one device. No sockets, encoders or metrics here.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from cache.config import CacheConfig
from cache.kv_cache import KVCache
from cache.policy import Evidence
from model.camera import CameraControl, CameraState
from model.codec.vae import from_pictures, to_pictures
from model.stream import figures
from model.stream.camera_path import CameraPath
from model.stream.chunk_stats import CameraView, ChunkStats, KeptTokens
from model.stream.figures import StageClock
from model.stream.kept import kept_tokens
from model.stream.session_cache import new_cache
from model.stream.stream_state import PastChunk, StreamError, StreamState
from model.stream.wording import Wording
from model.transformer.attention import Angles, rotate_by_time
from model.transformer.dit import Context
from model.transformer.passes import Given
from model.transformer.sampler import denoise
from model.weights import LoadedModel
from model.words.vocabularies import told

CLEAN = 0.0  # timestep of the pass that writes the cache
SEED_PRIME = 1_000_003  # separates the generators' seeds of (seed, chunk)
SEED_LIMIT = 2**63


class NotFiniteError(RuntimeError):
    """The model produced infinities or NaN: this session cannot continue; others are not affected."""


@dataclasses.dataclass(frozen=True)
class LatentChunk:
    """A chunk that is denoised and committed to the cache, but not decoded yet. ``path`` is the camera's path through
    it."""

    past: PastChunk
    path: CameraPath
    remembered: tuple[int, ...]
    stats: ChunkStats  # without the decoding time


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One chunk: its pictures and figures.

    ``camera`` is the state after the chunk. ``remembered`` lists the chunks of which the cache still holds tokens.
    """

    index: int
    pictures: np.ndarray[Any, np.dtype[np.uint8]]  # (T, H, W, 3)
    past: PastChunk
    camera: CameraState
    remembered: tuple[int, ...]
    stats: ChunkStats

    @property
    def latents(self) -> Tensor:
        """(1, F, C, h, w) float32."""
        return self.past.latents


class VideoStream:
    """A session's stream; ``set_prompt`` and ``set_camera`` take effect with the next chunk."""

    def __init__(self, model: LoadedModel, prompt: str, seed: int, cache: CacheConfig) -> None:
        self._model = model
        self._state = StreamState(prompt, seed, cache, deque(maxlen=model.spec.recache_chunks))
        self._wording = Wording(model)
        self._cache = new_cache(model, cache, seed, shared=True)

    @property
    def prompt(self) -> str:
        """The prompt of the next chunk."""
        return self._state.prompt

    @property
    def camera(self) -> CameraState:
        """The camera's state before the next chunk."""
        return self._state.camera

    @property
    def cache(self) -> KVCache:
        """The session's cache."""
        return self._cache

    @torch.inference_mode()
    def kept(self) -> KeptTokens:
        """The tokens that the cache holds after the newest chunk, for viewers."""
        return kept_tokens(self._cache, self._model.spec)

    @torch.inference_mode()
    def begin_with(self, picture: Tensor) -> None:
        """Start the stream with ``picture``, uint8 (H, W, 3): the first chunk is the still picture, which a clean pass
        writes to the cache. Raises StreamError after the first chunk, or for a picture of another size."""
        spec = self._model.spec
        if self._state.index or self._cache.chunks:
            raise StreamError(f"the stream has begun ({self._state.index} chunks): only its start can be a picture")
        if picture.shape != (spec.height, spec.width, 3):
            raise StreamError(f"the picture is {tuple(picture.shape)}, expected {(spec.height, spec.width, 3)}")
        view = from_pictures(picture.to(self._model.device))
        self._state.start = self._model.vae.encode_start(view, spec.chunk_latents).contiguous()

    def set_prompt(self, text: str) -> None:
        """Change the prompt."""
        self._state.prompt = text

    def set_camera(self, control: CameraControl) -> None:
        """Steer the camera. Raises StreamError for a model without a camera, or for ``rise`` with one that only
        pans."""
        limits = self._model.spec.camera
        if limits is None:
            raise StreamError(f"model {self._model.spec.name!r} has no camera to steer")
        if control.rise and not limits.rises:
            raise StreamError(f"the camera of model {self._model.spec.name!r} pans, it cannot rise")
        self._state.camera = self._state.camera.steered(control, self._model.spec.view_width)

    def next_chunk(self, before_pass: Callable[[], None] | None = None) -> Chunk:
        """Generate and decode the next chunk."""
        return self.decode(self.next_latents(before_pass))

    @torch.inference_mode()
    def next_latents(self, before_pass: Callable[[], None] | None = None) -> LatentChunk:
        """Denoise the next chunk and write it to the cache. If a call raises, the stream is unchanged and can try
        again.

        ``before_pass`` is called before every transformer pass and may raise to abandon the chunk. Raises
        NotFiniteError, or CacheFull from a policy that never evicts.
        """
        clock = StageClock(self._model.device)
        with clock.stage("text"):
            self._state.told = self._words()
            context = self._wording.heed(self._cache, self._state, before_pass)
        cache, spec = self._cache, self._model.spec
        with clock.stage("denoise"):
            path, velocity = self._begin_chunk(context, before_pass)
            latents = self._state.start if self._state.index == 0 else None
            if latents is None:
                generator = self._generator()
                latents = denoise(velocity, partial(self._noise, generator), spec.schedule(self._state.index))
        with clock.stage("clean"):
            evidence = velocity.last(latents)
        with clock.stage("prune"):
            scored = bool(cache.needs & figures.SCORED)
            before = [cache.tokens(layer) + cache.chunk for layer in range(cache.layers)]
            finite = latents.isfinite().all()
            cache.commit(evidence, finite)
            gathered = figures.gather(cache, spec, finite, scored)
        known = figures.read(self._model.to_host(gathered)[0], scored)  # the only wait of a chunk's passes
        if not known.finite:
            cache.take_back()
            raise NotFiniteError(f"{self._named(self._state.index)} has latents that are not finite")
        cache.settle(known.sound)
        evicted = max(tokens - cache.tokens(layer) for layer, tokens in enumerate(before))
        past = PastChunk(self._state.index, self._state.told or "", self._state.camera, latents)
        stats = self._describe(clock.seconds(), evicted, path.end, known)
        self._state.camera, self._state.index = path.end, self._state.index + 1
        self._wording.remember(self._state, path)
        self._state.recent.append(past)
        remembered = tuple(sorted(cache.chunks_on_host().union(known.remembered)))
        return LatentChunk(past, path, remembered, stats)

    @torch.inference_mode()
    def decode(self, chunk: LatentChunk) -> Chunk:
        """The chunk's pictures. Chunks are decoded in order, each once; another thread may decode while the next chunk
        is denoised. Raises NotFiniteError: then the chunk has no pictures, and the stream cannot continue."""
        with self._model.decoding():
            clock = StageClock(self._model.device)
            with clock.stage("decode"):
                pictures, vae_state = self._decode(chunk.past.latents, chunk.path)
                made = to_pictures(pictures)[0], torch.stack(pictures.aminmax()).isfinite().all()
            shown, finite = self._model.to_host(*made)
        if not finite:  # as bytes, they would look black
            raise NotFiniteError(f"{self._named(chunk.past.index)} has pictures that are not finite")
        self._state.vae_state = vae_state
        stats = msgspec.structs.replace(chunk.stats, seconds=chunk.stats.seconds | clock.seconds())
        return Chunk(chunk.past.index, shown.numpy(), chunk.past, chunk.path.end, chunk.remembered, stats)

    @torch.inference_mode()
    def recall(self, past: Sequence[PastChunk], index: int, camera: CameraState) -> None:
        """Continue a lost stream at chunk ``index``, with the memory that the ``past`` chunks (in order) contain.

        Their clean passes run again, each under its own prompt, so the cache equals the lost one if no chunk is
        missing; missing chunks are forgotten. The prompt does not change. Raises StreamError if the chunks do not fit.
        """
        for chunk in past:
            self._check_past(chunk, index)
            self._state.told, self._state.index, self._state.camera = chunk.prompt, chunk.index, chunk.camera
            path = self._write(chunk, self._wording.heed(self._cache, self._state))
            self._wording.remember(self._state, path)
            self._state.vae_state = self._decode(chunk.latents.to(self._model.device), path)[1]
            self._state.recent.append(chunk)
        self._state.index, self._state.camera = index, camera

    def snapshot(self) -> bytes:
        """The complete state for ``restore``, as safetensors bytes."""
        return self._state.packed(self._model, self._cache.snapshot())

    @classmethod
    def restore(cls, model: LoadedModel, snapshot: bytes) -> VideoStream:
        """The stream of ``snapshot``. Raises StreamError or CacheError if the snapshot is not of ``model``."""
        state, held = StreamState.unpacked(model, snapshot)
        stream = cls(model, state.prompt, state.seed, state.config)
        stream._state = state
        stream._cache.restore(held)
        return stream

    def _words(self) -> str:
        """What the model is told of the next chunk. A stream that begins with a picture shows what its words leave
        open."""
        state = self._state
        seed = None if state.index == 0 and state.start is not None else state.seed
        return told(state.prompt, state.told, seed, self._model.spec)

    def _check_past(self, chunk: PastChunk, end: int) -> None:
        spec = self._model.spec
        shape = (1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        if chunk.latents.shape != shape:
            raise StreamError(f"past chunk {chunk.index} has latents {tuple(chunk.latents.shape)}, expected {shape}")
        first = self._state.index + 1 if self._cache.chunks else 0
        if not first <= chunk.index < end:
            raise StreamError(f"past chunk {chunk.index} is out of order: allowed is {first} to {end - 1}")

    def _write(self, past: PastChunk, context: Context) -> CameraPath:
        """Run the clean pass of an earlier chunk; returns its camera path."""
        self._state.index, self._state.camera = past.index, past.camera
        path, velocity = self._begin_chunk(context, None)
        self._cache.commit(velocity.last(past.latents.to(self._model.device)))
        return path

    def _begin_chunk(self, context: Context, before_pass: Callable[[], None] | None) -> tuple[CameraPath, _Velocity]:
        """Open the chunk; returns the camera's path through it, and the model for its passes."""
        spec = self._model.spec
        path = CameraPath.of_chunk(spec, self._state.camera)
        self._cache.begin_chunk(path.chunk_positions(self._state.index), rotate_by_time(spec))
        return path, _Velocity(self._model, context, self._cache, path.control(), before_pass)

    def _generator(self) -> torch.Generator:
        """The generator of this chunk's noise, on the device that draws it: a seed gives the same noise on one kind of
        device."""
        generator = torch.Generator(self._model.noise_device)
        return generator.manual_seed((self._state.seed * SEED_PRIME + self._state.index) % SEED_LIMIT)

    def _noise(self, generator: torch.Generator) -> Tensor:
        """(1, F, C, h, w) float32."""
        spec = self._model.spec
        shape = (1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        return torch.randn(shape, generator=generator, device=generator.device).to(self._model.device)

    def _decode(self, latents: Tensor, path: CameraPath) -> tuple[Tensor, list[Tensor]]:
        """Pictures (1, T, 3, H, W) in [-1, 1] and the codec's state."""
        return self._model.vae.decode(latents.to(self._model.dtype), self._state.vae_state, path.motions())

    def _named(self, index: int) -> str:
        return f"chunk {index} of model {self._model.spec.name!r}"

    def _describe(
        self, seconds: dict[str, float], evicted: int, camera: CameraState, known: figures.Figures
    ) -> ChunkStats:
        cache = self._cache
        return ChunkStats(
            seconds=seconds,
            cache_tokens=max(cache.tokens(layer) for layer in range(cache.layers)),
            cache_bytes=cache.nbytes,
            cache_host_bytes=cache.host_nbytes,
            evicted_tokens=evicted,
            cache_policy=cache.policy,
            cache_fell_back=cache.fell_back,
            salience_quantiles=known.quantiles,
            prompt=self._state.prompt,
            told=self._state.told or "",
            camera=CameraView(offset=camera.offset, speed=camera.speed),
        )


class _Velocity:
    """The model as the sampler calls it, for one chunk: (x_t, timestep) -> velocity."""

    def __init__(
        self,
        model: LoadedModel,
        context: Context,
        cache: KVCache,
        control: Tensor | None,
        before_pass: Callable[[], None] | None = None,
    ) -> None:
        self._passes, self._cache = model.passes, cache
        self._before_pass = before_pass or (lambda: None)
        control = None if control is None else control.to(model.device)
        self._given = Given(context, control, Angles.of(cache.chunk_positions(), model.spec))

    def __call__(self, x_t: Tensor, timestep: float) -> Tensor:
        self._before_pass()
        velocity = self._passes.run(self._cache, x_t, timestep, self._given, last=False).velocity
        assert velocity is not None
        return velocity

    def last(self, latents: Tensor) -> Evidence:
        """The clean pass, which writes the keys to store; returns the policy's evidence."""
        self._before_pass()
        evidence = self._passes.run(self._cache, latents, CLEAN, self._given, last=True).evidence
        assert evidence is not None
        return evidence
