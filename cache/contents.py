"""What a cache holds, for those who only read it."""

from __future__ import annotations

import torch
from torch import Tensor

from cache.host_tier import HostTier
from cache.open_chunk import OpenChunk
from cache.token_store import TokenStore


class CacheContents:
    """The committed tokens of a cache, those in host memory, and their bytes."""

    chunk: int
    _store: TokenStore
    _tier: HostTier | None
    _open: OpenChunk | None

    def positions(self, layer: int) -> Tensor:
        """Positions (1, n, 3) for the rotation: n = kept + chunk while a chunk is open, else kept.

        In relative mode the newest token is at position_range - 1, and tokens older than the range are at 0, so a
        stream of any length stays inside the trained positions.
        """
        some, filled = slice(layer, layer + 1), self._filled(layer)
        times = self._store.times(some, filled)
        return torch.cat((times.unsqueeze(-1), self._store.positions[some, :filled, 1:]), dim=-1)

    def tokens(self, layer: int) -> int:
        """Committed tokens of a layer, at most its budget."""
        return self._store.kept[layer]

    def retained_positions(self) -> list[Tensor]:
        """Per layer, the committed tokens' positions as given (n, 3), oldest first."""
        return self._store.of_committed(self._store.positions)

    def committed(self, layer: int) -> tuple[Tensor, Tensor]:
        """Copies of the committed tokens' keys, as stored, and values, each (kept, H, D)."""
        return self._store.committed(layer)

    def numbers(self, layer: int) -> Tensor:
        """Token numbers since the start of the stream (n,): n = kept + chunk while a chunk is open, else kept."""
        return self._store.numbers[layer, : self._filled(layer)]

    def retained_numbers(self) -> list[Tensor]:
        """Per layer, the committed tokens' numbers since the start of the stream (n,), oldest first."""
        return self._store.of_committed(self._store.numbers)

    def retained_scores(self) -> list[Tensor]:
        """Per layer, the committed tokens' scores (n,), oldest first; 0 under a policy without scores."""
        return self._store.of_committed(self._store.scores)

    @property
    def nbytes(self) -> int:
        """Bytes that belong to this session on the device: constant, and equal to ``promised_bytes`` of the same
        geometry."""
        return self._store.nbytes

    @property
    def host_nbytes(self) -> int:
        """Bytes of host memory that belong to this session: constant, as ``config.host_bytes``."""
        return 0 if self._tier is None else self._tier.nbytes

    def numbers_on_host(self) -> list[Tensor]:
        """Per layer, the numbers of the tokens in host memory (n,), in no order."""
        return [] if self._tier is None else self._tier.held_numbers()

    def chunks_on_host(self) -> set[int]:
        """Chunks of which host memory holds a token."""
        return set() if self._tier is None else self._tier.chunks(self.chunk)

    def check_integrity(self) -> None:
        """Raise CacheCorrupt if the committed state violates an invariant: budget, order, finite numbers."""
        self._store.check_integrity()

    def _filled(self, layer: int) -> int:
        return self._store.kept[layer] + (self.chunk if self._open is not None else 0)
