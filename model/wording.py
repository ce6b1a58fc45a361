"""The effect of a prompt on a stream: passes attend to it, and a new prompt changes the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cache.kv_cache import KVCache
from model.camera_path import CameraPath
from model.dit import Context
from model.spec import ModelSpec
from model.stream_state import PastChunk, StreamState
from model.weights import LoadedModel
from model.words import words_of

HALF_A_COLUMN = 0.5


class Wording:
    """The prompt of one stream, encoded for its model."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._known: tuple[str, Context] | None = None

    def context(self, prompt: str) -> Context:
        """Keys and values for cross-attention, computed once per prompt."""
        if self._known is None or self._known[0] != prompt:
            text = self._model.text.encode(prompt)
            self._known = prompt, self._model.dit.encode_context(text[None, None])
        return self._known[1]

    def heed(self, cache: KVCache, state: StreamState, before_pass: Callable[[], None] | None = None) -> None:
        """Adapt the cache to the prompt of the next chunk, if it differs from the previous chunk's."""
        if state.prompt != state.written_under:
            before, state.written_under = state.written_under, None
            self._recache(cache, state, before_pass)
            spec = self._model.spec
            ahead = CameraPath.of_chunk(spec, state.camera).chunk_positions(state.index).to(self._model.device)
            follow_words(cache, spec, before or "", state.prompt, ahead)
            state.written_under = state.prompt

    def _recache(self, cache: KVCache, state: StreamState, before_pass: Callable[[], None] | None) -> None:
        """Rewrite the newest chunks in one block-causal pass, so that the keys with most attention reflect the new
        prompt. Source: KV-recache, LongLive (2509.22622)."""
        again, spec, device = written_again(cache, state), self._model.spec, self._model.device
        if again:
            cache.forget_from(again[0].index * spec.tokens_per_chunk)
            if before_pass is not None:
                before_pass()
            paths = [CameraPath.of_chunk(spec, past.camera) for past in again]
            controls = [control for path in paths if (control := path.control()) is not None]
            self._model.passes.rewrite(
                cache,
                torch.cat([past.latents for past in again], 1).to(device),
                [path.chunk_positions(past.index).to(device) for path, past in zip(paths, again, strict=True)],
                self.context(state.prompt),
                torch.cat(controls, 1).to(device) if controls else None,
            )


def written_again(cache: KVCache, state: StreamState) -> list[PastChunk]:
    """The chunks that a new prompt rewrites: as many as fit into the window with the open chunk, minus the part that
    older sinks take."""
    window = (cache.budget + cache.chunk) // cache.chunk
    if state.index > window:
        window = (cache.budget + cache.chunk - cache.sink) // cache.chunk
    return list(state.recent)[-window:]


def follow_words(cache: KVCache, spec: ModelSpec, before: str, after: str, positions: Tensor) -> None:
    """If prompt ``after`` names a thing that ``before`` does not, forget the tokens in view of the next chunk, at
    ``positions`` (tokens, 3), so that it is redrawn from the prompt. Tokens out of view are kept."""
    words = words_of(spec)
    if spec.redraws and words is not None and words.names_anew(before, after):
        sight = positions[:, 2]
        low, high = sight.min() - HALF_A_COLUMN, sight.max() + HALF_A_COLUMN
        cache.forget([(held[:, 2] > low) & (held[:, 2] < high) for held in cache.retained_positions()])
