"""The open chunk: the keys and values that its passes attend to, and its own keys until they are committed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cache.errors import CacheError
from cache.host_tier import HostTier
from cache.storage import Workspace
from cache.token_store import TokenStore

RotateByTime = Callable[[Tensor, Tensor], Tensor]  # keys (l, n, H, D) and their times (l, n) -> rotated keys


class OpenChunk:
    """An open chunk; the workspace is its own until another chunk is opened there. ``written``: layers with stored
    keys. ``recalled``: tokens per layer that came back from the host; they stand after the chunk, so that the others
    are where they would be without them."""

    def __init__(
        self,
        store: TokenStore,
        workspace: Workspace,
        rotate: RotateByTime | None,
        tier: HostTier | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Lay out the kept tokens for attention, with their keys rotated by ``rotate``, and what a ``tier`` has for the
        chunk at ``positions`` (chunk, 3)."""
        self.written: set[int] = set()
        self.recalled = [0] * store.layers
        self._kept, self._workspace = store.kept, workspace
        workspace.user = self
        for some, kept in store.runs(by_bytes=True):
            if kept:
                keys = store.keys.read(some, kept)
                if rotate is not None:
                    keys = rotate(keys, store.times(some, kept + store.chunk)[:, :kept])
                workspace.keys[some, :kept] = keys
                workspace.values[some, :kept] = store.values.read(some, kept)
        if tier is not None and positions is not None:
            ends = [kept + store.chunk for kept in store.kept]
            self.recalled = tier.bring_back(positions.cpu(), workspace, ends, rotate)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See KVCache.extend."""
        kept, space = self._kept[layer], self._workspace
        expected = (1, *space.fresh.shape[1:])
        if keys.shape != expected or values.shape != expected:
            raise CacheError(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must both be {expected}")
        end = kept + space.fresh.shape[1]
        space.keys[layer, kept:end] = keys[0]
        space.values[layer, kept:end] = values[0]
        seen = end + self.recalled[layer]
        return space.keys[layer, :seen].unsqueeze(0), space.values[layer, :seen].unsqueeze(0)

    def store(self, layer: int, keys: Tensor) -> None:
        """See KVCache.store."""
        expected = (1, *self._workspace.fresh.shape[1:])
        if keys.shape != expected:
            raise CacheError(f"keys {tuple(keys.shape)} must be {expected}")
        self._workspace.fresh[layer] = keys[0]
        self.written.add(layer)
