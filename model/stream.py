"""One session's generation: chunk after chunk of pictures from a prompt, a seed and a camera.

A chunk is noise that four passes over (cache + chunk) denoise; a clean pass then writes its keys and values, the VAE
decodes it, and the policy prunes the cache to its budget. The same seed and the same changes at the same chunks give
the same bits on one device. No sockets, codecs or metrics here.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from cache.config import HEAD_OF, CacheConfig
from cache.kv_cache import KVCache
from cache.policy import Evidence
from cache.registry import policy_named
from model import figures, rope
from model.attention import Angles, turn_by_time
from model.camera import CameraControl, CameraState
from model.camera_path import CameraPath
from model.chunk_stats import CameraView, ChunkStats, KeptTokens
from model.dit import Context
from model.figures import StageClock
from model.kept import kept_tokens
from model.passes import Given
from model.sampler import denoise
from model.spec import ModelSpec
from model.vae import from_pictures, to_pictures
from model.weights import LoadedModel
from model.words import words_of

CLEAN = 0.0  # timestep of the pass that writes the cache
SEED_PRIME = 1_000_003  # spreads (seed, chunk) over the generator's seeds
SEED_LIMIT = 2**63
SNAPSHOT_FORMAT = 3
HALF_A_COLUMN = 0.5


class StreamError(ValueError):
    """A change that the model cannot follow, or a snapshot that does not belong to it."""


class NotFiniteError(RuntimeError):
    """The model produced infinities or NaN: this session cannot go on, others are not touched."""


@dataclasses.dataclass(frozen=True)
class PastChunk:
    """A finished chunk as it can be kept outside of the model, enough to write it into a cache again.

    latents: (1, F, C, h, w) float32. camera: its state when the chunk began.
    """

    index: int
    prompt: str
    camera: CameraState
    latents: Tensor


@dataclasses.dataclass(frozen=True)
class LatentChunk:
    """A chunk that is denoised and remembered, and not yet decoded. ``path`` is the camera's way through it."""

    past: PastChunk
    path: CameraPath
    remembered: tuple[int, ...]
    stats: ChunkStats  # without the decoder's seconds


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One chunk: its pictures and its figures.

    ``camera`` is the state after the chunk; the cache still holds tokens of the chunks in ``remembered``.
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
    """A session's stream; ``set_prompt`` and ``set_camera`` count from the next chunk on."""

    def __init__(self, model: LoadedModel, prompt: str, seed: int, cache: CacheConfig) -> None:
        self._model = model
        self._prompt = prompt
        self._seed = seed
        self._config = cache
        self._context: Context | None = None  # of the prompt, made with the next chunk
        self._recent: deque[PastChunk] = deque(maxlen=model.spec.recache_chunks)
        self._written_under: str | None = None  # the prompt that the cache holds those under
        self._camera = CameraState()
        self._index = 0
        self._vae_state: list[Tensor] | None = None
        self._start: Tensor | None = None  # latents of the first chunk, where a picture says what they are
        self._cache = new_cache(model, cache, seed, shared=True)

    @property
    def prompt(self) -> str:
        return self._prompt

    @property
    def camera(self) -> CameraState:
        return self._camera

    @property
    def cache(self) -> KVCache:
        return self._cache

    @torch.inference_mode()
    def kept(self) -> KeptTokens:
        """What the cache holds after the newest chunk, for a viewer who wants to see it."""
        return kept_tokens(self._cache, self._model.spec)

    @torch.inference_mode()
    def begin_with(self, picture: Tensor) -> None:
        """Let the stream begin with ``picture``, uint8 (H, W, 3): its first chunk is the picture at rest, which a clean
        pass writes to the cache. Raises StreamError after the first chunk, or for a picture of another size."""
        spec = self._model.spec
        if self._index or self._cache.chunks:
            raise StreamError(f"the stream has begun ({self._index} chunks): only its start can be a picture")
        if picture.shape != (spec.height, spec.width, 3):
            raise StreamError(f"the picture is {tuple(picture.shape)}, expected {(spec.height, spec.width, 3)}")
        view = from_pictures(picture.to(self._model.device))
        self._start = self._model.vae.encode_start(view, spec.chunk_latents).contiguous()

    def set_prompt(self, text: str) -> None:
        if text != self._prompt:
            self._prompt, self._context = text, None

    def set_camera(self, control: CameraControl) -> None:
        """Steer the camera. Raises StreamError for a model without one, or for one that only pans and is to rise."""
        limits = self._model.spec.camera
        if limits is None:
            raise StreamError(f"model {self._model.spec.name!r} has no camera to steer")
        if control.rise and not limits.rises:
            raise StreamError(f"the camera of model {self._model.spec.name!r} pans, it cannot rise")
        self._camera = self._camera.steered(control, self._model.spec.width)

    def next_chunk(self, before_pass: Callable[[], None] | None = None) -> Chunk:
        """Generate the next chunk: ``next_latents``, decoded."""
        return self.decode(self.next_latents(before_pass))

    @torch.inference_mode()
    def next_latents(self, before_pass: Callable[[], None] | None = None) -> LatentChunk:
        """Denoise the next chunk and write it to the cache. A call that raises leaves the stream as it was, ready to
        try again.

        ``before_pass`` is called before every pass of the transformer and may raise to give the chunk up.
        Raises NotFiniteError, or CacheFull from a policy that never evicts.
        """
        clock = StageClock(self._model.device)
        with clock.stage("text"):
            context = self._encode_prompt()
            self._heed_words(before_pass)
        cache, spec = self._cache, self._model.spec
        with clock.stage("denoise"):
            path, velocity = self._begin_chunk(context, before_pass)
            latents = self._start if self._index == 0 else None
            if latents is None:
                generator = self._generator()
                latents = denoise(velocity, self._noise(generator), spec.schedule(self._index), generator)
        with clock.stage("clean"):
            evidence = velocity.last(latents)
        with clock.stage("prune"):
            scored = bool(cache.needs & figures.SCORED)
            before = [cache.tokens(layer) + cache.chunk for layer in range(cache.layers)]
            finite = latents.isfinite().all()
            cache.commit(evidence, finite)
            gathered = figures.gather(cache, spec, finite, scored)
        known = figures.read(self._model.to_host(gathered)[0], scored)  # the one wait of a chunk's passes
        if not known.finite:
            cache.take_back()
            raise NotFiniteError(f"{self._named(self._index)} is not finite: its latents")
        cache.settle(known.sound)
        evicted = max(tokens - cache.tokens(layer) for layer, tokens in enumerate(before))
        past = PastChunk(self._index, self._prompt, self._camera, latents)
        stats = self._describe(clock.seconds(), evicted, path.end, known)
        self._camera, self._index = path.end, self._index + 1
        self._recent.append(past)
        return LatentChunk(past, path, known.remembered, stats)

    @torch.inference_mode()
    def decode(self, chunk: LatentChunk) -> Chunk:
        """The chunk's pictures. Chunks are decoded in order, each once; another thread may do it while the next one is
        denoised. Raises NotFiniteError: the chunk has no pictures then, and the stream cannot go on."""
        with self._model.decoding():
            clock = StageClock(self._model.device)
            with clock.stage("decode"):
                pictures, vae_state = self._decode(chunk.past.latents, chunk.path)
                made = to_pictures(pictures)[0], pictures.isfinite().all()
            shown, finite = self._model.to_host(*made)
        if not finite:  # as bytes, they would only be black
            raise NotFiniteError(f"{self._named(chunk.past.index)} is not finite: its pictures")
        self._vae_state = vae_state
        stats = msgspec.structs.replace(chunk.stats, seconds=chunk.stats.seconds | clock.seconds())
        return Chunk(chunk.past.index, shown.numpy(), chunk.past, chunk.path.end, chunk.remembered, stats)

    @torch.inference_mode()
    def recall(self, past: Sequence[PastChunk], index: int, camera: CameraState) -> None:
        """Go on at chunk ``index`` of a stream that was lost, remembering what ``past`` chunks (in order) can tell.

        Their clean passes are run again, each under its own prompt, so the cache is exactly the lost one when no chunk
        is missing; a missing one is forgotten. The prompt is afterwards what it was before. Raises StreamError when
        the chunks do not fit.
        """
        prompt = self._prompt
        for chunk in past:
            self._check_past(chunk, index)
            self.set_prompt(chunk.prompt)
            self._index, self._camera = chunk.index, chunk.camera
            self._heed_words()
            path = self._write(chunk)
            self._vae_state = self._decode(chunk.latents.to(self._model.device), path)[1]
            self._recent.append(chunk)
        self.set_prompt(prompt)
        self._index, self._camera = index, camera

    def snapshot(self) -> bytes:
        """All that ``restore`` needs to go on as if nothing had happened, as safetensors bytes."""
        vae_state = self._vae_state or []
        tensors = {f"cache.{name}": tensor for name, tensor in self._cache.snapshot().items()}
        tensors |= {f"vae.{place}": tensor.cpu().contiguous() for place, tensor in enumerate(vae_state)}
        tensors |= {} if self._start is None else {"start": self._start.cpu()}
        tensors |= {f"recent.{place}": past.latents.cpu().contiguous() for place, past in enumerate(self._recent)}
        state = {
            "format": SNAPSHOT_FORMAT,
            "model": self._model.spec.name,
            "digest": self._model.digest,
            "prompt": self._prompt,
            "written_under": self._written_under,
            "recent": [(past.index, past.prompt, dataclasses.asdict(past.camera)) for past in self._recent],
            "seed": self._seed,
            "index": self._index,
            "camera": dataclasses.asdict(self._camera),
            "cache": dataclasses.asdict(self._config),
            "vae_tensors": len(vae_state),
        }
        text = json.dumps(state).encode()
        return save_safetensors({**tensors, "state": torch.frombuffer(bytearray(text), dtype=torch.uint8)})

    @classmethod
    def restore(cls, model: LoadedModel, snapshot: bytes) -> VideoStream:
        """The stream that ``snapshot`` was taken of. Raises StreamError or CacheError if it is not of ``model``."""
        try:
            tensors = load_safetensors(snapshot)
            state = json.loads(tensors.pop("state").numpy().tobytes())
        except Exception as error:  # safetensors raises its own type and plain ValueErrors alike
            raise StreamError(f"the stream snapshot of {len(snapshot)} bytes cannot be read: {error}") from error
        _check_origin(model, state)
        stream = cls(model, state["prompt"], state["seed"], CacheConfig(**state["cache"]))
        stream._camera = CameraState(**state["camera"])
        stream._index, stream._written_under = state["index"], state["written_under"]
        if "start" in tensors:
            stream._start = tensors["start"].to(model.device)
        for place, (index, prompt, camera) in enumerate(state["recent"]):
            latents = tensors[f"recent.{place}"].to(model.device)
            stream._recent.append(PastChunk(index, prompt, CameraState(**camera), latents))
        if state["vae_tensors"]:
            stream._vae_state = [tensors[f"vae.{place}"].to(model.device) for place in range(state["vae_tensors"])]
        prefix = "cache."
        held = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        stream._cache.restore(held)
        return stream

    def _check_past(self, chunk: PastChunk, end: int) -> None:
        spec = self._model.spec
        shape = (1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        if chunk.latents.shape != shape:
            raise StreamError(f"past chunk {chunk.index} has latents {tuple(chunk.latents.shape)}, expected {shape}")
        first = self._index + 1 if self._cache.chunks else 0
        if not first <= chunk.index < end:
            raise StreamError(f"past chunk {chunk.index} is out of order: allowed is {first} to {end - 1}")

    def _heed_words(self, before_pass: Callable[[], None] | None = None) -> None:
        """Let the cache follow the prompt of the chunk that comes next, when it is another than that of the last."""
        if self._prompt != self._written_under:
            before, self._written_under = self._written_under, None
            self._recache(before_pass)
            ahead = self._positions(self._path(), self._index)
            follow_words(self._cache, self._model.spec, before or "", self._prompt, ahead)
            self._written_under = self._prompt

    def _recache(self, before_pass: Callable[[], None] | None = None) -> None:
        """Write the newest chunks once more, in one block-causal pass: the keys that are attended to most then speak
        of what is wanted, and not of what was. Source: KV-recache, LongLive (2509.22622)."""
        again, spec = self._written_again(), self._model.spec
        if again:
            self._cache.forget_from(again[0].index * spec.tokens_per_chunk)
            if before_pass is not None:
                before_pass()
            paths = [CameraPath.of_chunk(spec, past.camera) for past in again]
            controls = [control for path in paths if (control := path.control()) is not None]
            self._model.passes.rewrite(
                self._cache,
                torch.cat([past.latents for past in again], 1).to(self._model.device),
                [self._positions(path, past.index) for path, past in zip(paths, again, strict=True)],
                self._encode_prompt(),
                torch.cat(controls, 1).to(self._model.device) if controls else None,
            )

    def _written_again(self) -> list[PastChunk]:
        """What a new prompt has written again: as many chunks as the window holds, the open one's room included, and
        when sinks from before them stay, so many fewer as these take of it."""
        cache = self._cache
        window = (cache.budget + cache.chunk) // cache.chunk
        if self._index > window:
            window = (cache.budget + cache.chunk - cache.sink) // cache.chunk
        return list(self._recent)[-window:]

    def _write(self, past: PastChunk) -> CameraPath:
        """The clean pass of a chunk that was made before, under the present prompt; its camera's way."""
        self._index, self._camera = past.index, past.camera
        path, velocity = self._begin_chunk(self._encode_prompt(), None)
        self._cache.commit(velocity.last(past.latents.to(self._model.device)))
        return path

    def _begin_chunk(self, context: Context, before_pass: Callable[[], None] | None) -> tuple[CameraPath, _Velocity]:
        """Open the chunk: the camera's way through it, and the model as its passes see it."""
        path = self._path()
        self._cache.begin_chunk(self._positions(path, self._index), turn_by_time(self._model.spec))
        return path, _Velocity(self._model, context, self._cache, path.control(), before_pass)

    def _path(self) -> CameraPath:
        return CameraPath.of_chunk(self._model.spec, self._camera)

    def _positions(self, path: CameraPath, chunk: int) -> Tensor:
        return path.positions(chunk * self._model.spec.chunk_latents).to(self._model.device)

    def _encode_prompt(self) -> Context:
        if self._context is None:
            text = self._model.text.encode(self._prompt)
            self._context = self._model.dit.encode_context(text[None, None])
        return self._context

    def _generator(self) -> torch.Generator:
        """Of this chunk's noise, on the device that draws it: a seed means the same noise on one kind of device."""
        generator = torch.Generator(self._model.noise_device)
        return generator.manual_seed((self._seed * SEED_PRIME + self._index) % SEED_LIMIT)

    def _noise(self, generator: torch.Generator) -> Tensor:
        """(1, F, C, h, w) float32."""
        spec = self._model.spec
        shape = (1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        return torch.randn(shape, generator=generator, device=generator.device).to(self._model.device)

    def _decode(self, latents: Tensor, path: CameraPath) -> tuple[Tensor, list[Tensor]]:
        """Pictures (1, T, 3, H, W) in [-1, 1] and what the codec remembers."""
        return self._model.vae.decode(latents.to(self._model.dtype), self._vae_state, path.motions())

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
            evicted_tokens=evicted,
            cache_policy=cache.policy,
            cache_fell_back=cache.fell_back,
            salience_quantiles=known.quantiles,
            prompt=self._prompt,
            camera=CameraView(offset=camera.offset, speed=camera.speed),
        )


class _Velocity:
    """The model as the sampler sees it, for one chunk: (x_t, timestep) -> velocity."""

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
        return self._passes.run(self._cache, x_t, timestep, self._given, last=False).velocity

    def last(self, latents: Tensor) -> Evidence:
        """The clean pass, which writes what the cache will keep; what the policy asks for."""
        self._before_pass()
        evidence = self._passes.run(self._cache, latents, CLEAN, self._given, last=True).evidence
        assert evidence is not None
        return evidence


def follow_words(cache: KVCache, spec: ModelSpec, before: str, after: str, positions: Tensor) -> None:
    """Forget what stands where the next chunk, at ``positions`` (tokens, 3), looks, if prompt ``after`` names a thing
    that ``before`` does not: it is drawn anew from the words. What lies elsewhere stays remembered."""
    words = words_of(spec)
    if spec.redraws and words is not None and words.names_anew(before, after):
        sight = positions[:, 2]
        low, high = sight.min() - HALF_A_COLUMN, sight.max() + HALF_A_COLUMN
        cache.forget([(held[:, 2] > low) & (held[:, 2] < high) for held in cache.retained_positions()])


def new_cache(
    model: LoadedModel,
    config: CacheConfig,
    seed: int,
    foresight: bool = False,
    shared: bool = False,
    pose: bool = True,
) -> KVCache:
    """A session's cache; in the model's ``shared`` workspace, if chunks are made one after the other. Raises
    StreamError when nobody can bring what the policy needs; only an evaluation has ``foresight``, or
    hides the ``pose``: its policies see keys that no place has turned."""
    spec = model.spec
    needs = policy_named(config.policy).needs
    head = HEAD_OF.get(config.policy)
    if head is not None and getattr(model, head) is None:
        raise StreamError(
            f"cache policy {config.policy!r} needs a head for {head}, and these weights of {spec.name!r} have none: "
            f"train one with `pafu distill {head}`, or choose a policy without one, for example 'value_novelty'"
        )
    if "future" in needs and not foresight:
        raise StreamError(f"cache policy {config.policy!r} knows the future: it exists in evaluations only")
    return KVCache(
        layers=spec.num_layers,
        heads=spec.num_heads,
        head_dim=spec.head_dim,
        budget=config.budget_tokens(spec.tokens_per_latent),
        chunk=spec.tokens_per_chunk,
        policy=config.policy,
        sink=round(config.sink_latents * spec.tokens_per_latent),
        recent=round(config.recent_latents * spec.tokens_per_latent),
        dtype=model.dtype,
        device=model.device,
        position_range=spec.trained_latents if config.position_mode == "relative" else None,
        seed=seed,
        kv_dtype=config.kv_dtype,
        unplaced=None if pose else partial(_unplaced, spec),
        workspace=model.passes.workspace(model.dtype, model.device) if shared else None,
    )


def _unplaced(spec: ModelSpec, keys: Tensor, positions: Tensor) -> Tensor:
    """Keys (n, H, D) as they were before row and column of positions (n, 3) turned them."""
    return rope.undo_place(keys[None], positions[None], spec.rope_split, spec.rope_theta)[0]


def _check_origin(model: LoadedModel, state: dict[str, Any]) -> None:
    expected = {"format": SNAPSHOT_FORMAT, "model": model.spec.name, "digest": model.digest}
    for name, value in expected.items():
        if state.get(name) != value:
            raise StreamError(f"the stream snapshot has {name} {state.get(name)!r}, this model needs {value!r}")
