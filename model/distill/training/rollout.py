"""Runs many streams of one model side by side, so that evaluation and long tuning use the whole machine.

It makes the same passes as ``VideoStream``, with the same caches and policies, in one batched transformer. A chunk is
first drawn (``draw``) and then committed (``commit``), with the drawn latents or with true ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cache.config import CacheConfig
from cache.kv_cache import KVCache
from cache.policy import Evidence
from cache.scoring import received_attention
from model.distill.data.script import Script
from model.distill.training.parallel import encode_context
from model.spec import ModelSpec
from model.stream.session_cache import new_cache
from model.stream.video_stream import CLEAN, SEED_LIMIT, SEED_PRIME
from model.stream.wording import follow_words
from model.transformer import rope
from model.transformer.attention import Angles, Rewriting, Watch, attend, prompt_keys, rotate_by_time
from model.transformer.dit import Context
from model.transformer.recache import Finished, chunks_again, recache
from model.transformer.sampler import denoise
from model.weights import LoadedModel


class Foresight:
    """The attention that every token of one stream will receive: the oracle's knowledge.

    ``note`` records the maximum of one chunk (over its queries and denoising passes; mean over heads). ``after`` reads
    the maximum over all later chunks.
    """

    def __init__(self, spec: ModelSpec, chunks: int) -> None:
        self._seen = torch.zeros(spec.num_layers, chunks, chunks * spec.tokens_per_chunk)

    def note(self, layer: int, chunk: int, numbers: Tensor, attention: Tensor) -> None:
        """Record the attention of a chunk."""
        row = self._seen[layer, chunk]
        row[numbers] = torch.maximum(row[numbers], attention.cpu())

    def after(self, layer: int, chunk: int, numbers: Tensor, gap: int = 1) -> Tensor:
        """(n,) for the tokens ``numbers``: attention from chunks at least ``gap`` after ``chunk``; 0 at the end."""
        later = self._seen[layer, chunk + gap :]
        return later.amax(0)[numbers] if len(later) else torch.zeros(len(numbers))

    def target(self, gap: int, tokens_per_chunk: int) -> Tensor:
        """(layers, tokens): for every token, the attention from chunks at least ``gap`` after its own."""
        layers, chunks, tokens = self._seen.shape
        own = torch.arange(tokens) // tokens_per_chunk
        later = torch.arange(chunks)[:, None] >= own + gap
        return self._seen.masked_fill(~later, 0).amax(1)


def side_by_side(rows: Sequence[Tensor]) -> Tensor:
    """Pad rows (n, ...) of unequal length at the front to (B, longest, ...), so that their newest tokens align."""
    longest = max(len(row) for row in rows)
    if min(len(row) for row in rows) == longest:
        return torch.stack(list(rows))
    return torch.stack([F.pad(row, (0, 0) * (row.dim() - 1) + (longest - len(row), 0)) for row in rows])


def filled(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """(B, 1, 1, longest): True at tokens that are not padding; None if there is no padding."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    rows = torch.tensor(lengths, device=device)[:, None]
    return (torch.arange(longest, device=device) >= longest - rows)[:, None, None, :]


class SideBySide:
    """Attention of B chunks, each over its own cache."""

    def __init__(self, caches: Sequence[KVCache], spec: ModelSpec) -> None:
        self._caches = caches
        self._angles = Angles.of(torch.cat([cache.chunk_positions() for cache in caches]), spec)
        self.watches: list[Watch] | None = None
        self.foresight: list[Foresight] | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        plain, q, turned = q, rope.apply(q, *self._angles.whole), rope.apply(k, *self._angles.whole)
        pairs = [cache.extend(layer, turned[i : i + 1], v[i : i + 1]) for i, cache in enumerate(self._caches)]
        rows = [keys[0] for keys, _ in pairs]
        if self.watches is not None:
            lasting = rope.apply(k, *self._angles.place)
            for i, (watch, cache) in enumerate(zip(self.watches, self._caches, strict=True)):
                cache.store(layer, lasting[i : i + 1])
                watch.see_tokens(layer, k[i], v[i])
                watch.see(layer, q[i], *(each[0] for each in pairs[i]))
                watch.expect(plain[i], pairs[i][0][0], self._angles.whole)
        for i, foresight in enumerate(self.foresight or ()):
            cache = self._caches[i]
            foresight.note(layer, cache.chunks, cache.numbers(layer).cpu(), received_attention(q[i], rows[i], "max"))
        own = filled([len(row) for row in rows], q.device)
        return attend(q, side_by_side(rows), side_by_side([values[0] for _, values in pairs]), own)


class OverCommitted:
    """Attention over the content of the caches without changing it, for passes with gradients."""

    def __init__(self, caches: Sequence[KVCache], spec: ModelSpec) -> None:
        self._caches, self._spec = caches, spec
        self._angles = Angles.of(torch.cat([cache.chunk_positions() for cache in caches]), spec)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        held = [cache.committed(layer) for cache in self._caches]
        own = filled([len(keys) + q.shape[1] for keys, _ in held], q.device)
        keys, values = (side_by_side(side) for side in zip(*held, strict=True))
        times = side_by_side([cache.positions(layer)[0, : -q.shape[1], 0] for cache in self._caches])
        keys = rope.rotate_time(keys, times, self._spec.rope_split, self._spec.rope_theta)
        q, k = rope.apply(q, *self._angles.whole), rope.apply(k, *self._angles.whole)
        return attend(q, torch.cat((keys, k), 1), torch.cat((values, v), 1), own)


class Rollout:
    """B streams. ``foresight``, one per stream, is written if ``note``, and otherwise read for policies that need
    it."""

    def __init__(
        self,
        model: LoadedModel,
        scripts: Sequence[Script],
        seeds: Sequence[int],
        cache: CacheConfig,
        foresight: Sequence[Foresight] | None = None,
        note: bool = False,
        pose: bool = True,
    ) -> None:
        self._model, self._scripts, self._seeds = model, scripts, seeds
        self.caches = [new_cache(model, cache, seed, foresight is not None, pose=pose) for seed in seeds]
        self._foresight, self._note = foresight, note
        self._texts: dict[str, Tensor] = {}
        self.index = 0
        self._prompts: Sequence[str] = [""] * len(scripts)
        self._attention: SideBySide | None = None
        # Sharded weights need the same passes in every process, and prompts change at different chunks.
        again = 0 if hasattr(model.dit, "unshard") else model.spec.recache_chunks
        self._recent: deque[tuple[int, Tensor]] = deque(maxlen=again)

    @torch.no_grad()
    def draw(self, rows: Sequence[int] | None = None) -> Tensor:
        """The next chunk's latents (B, F, C, h, w) float32, from noise, for all streams or some; not committed yet."""
        self._begin()
        some = list(range(len(self.caches))) if rows is None else list(rows)
        attention = SideBySide([self.caches[row] for row in some], self._model.spec)
        if self._note and self._foresight is not None:
            attention.foresight = [self._foresight[row] for row in some]
        context = [(keys[some], values[some]) for keys, values in self._context]
        control = None if self._control is None else self._control[some]
        generators = [self._generator(self._seeds[row]) for row in some]

        def velocity(x_t: Tensor, timestep: float) -> Tensor:
            timesteps = torch.full(x_t.shape[:2], timestep, device=x_t.device)
            out: Tensor = self._model.dit(x_t, timesteps, context, attention, control)
            return out

        return denoise(velocity, partial(self._noise, generators), self._model.spec.schedule(self.index))

    @torch.no_grad()
    def commit(self, latents: Tensor) -> None:
        """Write the chunk's keys and values from ``latents`` in a clean pass, and prune."""
        if self._attention is None:
            self._begin()
        assert self._attention is not None
        self._attention.watches = [
            Watch(cache.needs, self._model.heads, prompt_keys(self._context, i), spec=self._model.spec)
            for i, cache in enumerate(self.caches)
        ]
        latents = latents.to(self._model.device)
        self._pass(latents, CLEAN)
        for i, (watch, cache) in enumerate(zip(self._attention.watches, self.caches, strict=True)):
            cache.commit(self._evidence(i, watch, cache))
        self._recent.append((self.index, latents.detach()))
        self._attention, self.index = None, self.index + 1

    def velocity(self, x_t: Tensor, timestep: float) -> Tensor:
        """One pass over noisy latents (B, F, C, h, w) of the next chunk; differentiable in the transformer's weights,
        but not in the cache."""
        if self._attention is None:
            self._begin()
        timesteps = torch.full(x_t.shape[:2], timestep, device=x_t.device)
        over = OverCommitted(self.caches, self._model.spec)
        out: Tensor = self._model.dit(x_t, timesteps, self._encode(self._prompts), over, self._control)
        return out

    def _begin(self) -> None:
        spec, device = self._model.spec, self._model.device
        self._prompts, before = [script.prompts[self.index] for script in self._scripts], self._prompts
        for row, (cache, script) in enumerate(zip(self.caches, self._scripts, strict=True)):
            positions, old, new = script.positions(spec, self.index, 1).to(device), before[row], self._prompts[row]
            if old != new:
                self._recache(row, new)
            follow_words(cache, spec, old, new, positions)
            cache.begin_chunk(positions, rotate_by_time(spec))
        self._attention = SideBySide(self.caches, spec)
        self._context = self._encode(self._prompts)
        controls = [script.control(spec, self.index, 1) for script in self._scripts]
        self._control = None if controls[0] is None else torch.stack(controls).to(device)  # type: ignore[arg-type]

    @torch.no_grad()
    def _recache(self, row: int, prompt: str) -> None:
        """Write the newest chunks of one stream again under its new prompt, as ``VideoStream`` does."""
        recent = list(self._recent)[-chunks_again(self.caches[row], self.index) :]
        if not recent:
            return
        again = [self._finished(row, index, latents) for index, latents in recent]
        recache(self.caches[row], again, self._encode([prompt]), self._rewrite)

    def _finished(self, row: int, index: int, latents: Tensor) -> Finished:
        spec, script, device = self._model.spec, self._scripts[row], self._model.device
        control = script.control(spec, index, 1)
        given = None if control is None else control[None].to(device)
        return Finished(index, latents[row : row + 1], script.positions(spec, index, 1).to(device), given)

    def _rewrite(
        self, cache: KVCache, latents: Tensor, positions: Sequence[Tensor], context: Context, control: Tensor | None
    ) -> None:
        """As ``Passes.rewrite``, for weights that are being trained."""
        attention = Rewriting(cache, positions, self._model.spec, self._model.heads, prompt_keys(context))
        self._model.dit(latents, torch.zeros(latents.shape[:2], device=latents.device), context, attention, control)

    def _encode(self, prompts: Sequence[str]) -> Context:
        for prompt in prompts:
            if prompt not in self._texts:
                self._texts[prompt] = self._model.text.encode(prompt)
        texts = torch.stack([self._texts[prompt] for prompt in prompts])
        return encode_context(self._model.dit, texts[:, None])

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed((seed * SEED_PRIME + self.index) % SEED_LIMIT)

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        spec = self._model.spec
        shape = (spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self._model.device)

    def _pass(self, x_t: Tensor, timestep: float) -> Tensor:
        timesteps = torch.full(x_t.shape[:2], timestep, device=x_t.device)
        out: Tensor = self._model.dit(x_t, timesteps, self._context, self._attention, self._control)
        return out

    def _evidence(self, stream: int, watch: Watch, cache: KVCache) -> Evidence:
        evidence = watch.evidence()
        if "future" not in cache.needs or self._foresight is None:
            return evidence
        foresight = self._foresight[stream]
        future = [foresight.after(layer, self.index, cache.numbers(layer).cpu()) for layer in range(cache.layers)]
        return Evidence(**{**evidence.__dict__, "future": [row.to(self._model.device) for row in future]})
