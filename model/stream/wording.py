"""The effect of a prompt on a stream: passes attend to it, and a new prompt changes the cache."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cache.kv_cache import KVCache
from model.spec import ModelSpec
from model.stream.camera_path import CameraPath
from model.stream.stream_state import PastChunk, StreamState
from model.transformer.dit import Context
from model.transformer.recache import Finished, chunks_again, recache
from model.weights import LoadedModel
from model.words.scenery import shown
from model.words.vocabularies import words_of

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

    def heed(self, cache: KVCache, state: StreamState, before_pass: Callable[[], None] | None = None) -> Context:
        """Adapt the cache to the words ``state.told`` of the next chunk, if they differ from the previous chunk's.
        Returns their keys and values."""
        words = state.told or ""
        if words != state.written_under:
            before, state.written_under = state.written_under, None
            self._recache(cache, state, before_pass)
            spec = self._model.spec
            ahead = CameraPath.of_chunk(spec, state.camera).chunk_positions(state.index)
            if follow_words(cache, spec, before or "", words, ahead) or before is None:
                state.named_at = state.camera.offset
            state.written_under = words
        return self.context(self._told_here(state))

    def remember(self, state: StreamState, path: CameraPath) -> None:
        """Note which places a chunk with this path has shown."""
        if (words := words_of(self._model.spec)) is not None and words.here is not None:
            state.seen |= shown(state.told or "", path.view())

    def _told_here(self, state: StreamState) -> str:
        """The words for what the next chunk shows."""
        words = words_of(self._model.spec)
        if words is None or words.here is None:
            return state.told or ""
        view = CameraPath.of_chunk(self._model.spec, state.camera).view()
        return words.here(state.told or "", state.seed, view, state.named_at, state.seen)

    def _recache(self, cache: KVCache, state: StreamState, before_pass: Callable[[], None] | None) -> None:
        """Rewrite the newest chunks for the new prompt, as many as the model's row says."""
        again = list(state.recent)[-chunks_again(cache, state.index) :]
        if again and before_pass is not None:
            before_pass()
        finished = [self._finished(past) for past in again]
        recache(cache, finished, self.context(state.told or ""), self._model.passes.rewrite)

    def _finished(self, past: PastChunk) -> Finished:
        path, device = CameraPath.of_chunk(self._model.spec, past.camera), self._model.device
        control = path.control()
        positions = path.chunk_positions(past.index).to(device)
        return Finished(past.index, past.latents.to(device), positions, None if control is None else control.to(device))


def follow_words(cache: KVCache, spec: ModelSpec, before: str, after: str, positions: Tensor) -> bool:
    """If prompt ``after`` names a thing that ``before`` does not, forget the tokens in view of the next chunk, at
    ``positions`` (tokens, 3), so that it is redrawn from the prompt. Tokens out of view are kept. Returns whether it
    does."""
    words = words_of(spec)
    redraws = spec.redraws and words is not None and words.grammar.names_anew(before, after)
    if redraws:
        sight = positions[:, 2]
        low, high = float(sight.min()) - HALF_A_COLUMN, float(sight.max()) + HALF_A_COLUMN
        cache.forget_where(lambda held, _: (held[:, 2] > low) & (held[:, 2] < high))
    return redraws
