"""A group of processes that share one model, and the group of one.

Outside attention every process has each ``size``-th token, with all heads; inside attention, and in the cache, it has
all tokens, with its own heads: an equal run of them, in the order of the processes. Token t belongs to process
t modulo ``size``, so any sequence of whole latent frames is divided in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class Group:
    """A process on its own: it has all tokens and all heads, and nothing is exchanged. Groups of several override every
    method; all their processes call the same methods in the same order."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which also has the text encoder and the video codec."""
        return self.rank == 0

    def own_tokens(self, x: Tensor, dim: int) -> Tensor:
        """This process's tokens of all tokens, which are along ``dim``."""
        return x

    def all_tokens(self, x: Tensor, dim: int) -> Tensor:
        """All tokens, of which ``x`` has this process's along ``dim``."""
        return x

    def to_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """This process's tokens with all heads, each (B, S / size, H, D), to all tokens with its own heads, each (B, S,
        H / size, D)."""
        return q, k, v

    def to_tokens(self, x: Tensor) -> Tensor:
        """All tokens with this process's heads, (B, S, H / size, D), to its own tokens with all heads, (B, S / size, H,
        D)."""
        return x

    def own_heads(self, x: Tensor, dim: int = -2) -> Tensor:
        """This process's heads of all heads, which are along ``dim``."""
        return x

    def all_heads(self, x: Tensor, dim: int = -2) -> Tensor:
        """All heads, of which ``x`` has this process's along ``dim``."""
        return x

    def mean(self, x: Tensor) -> Tensor:
        """The mean of all processes' ``x``, the same bits in each: a mean over equal runs of heads becomes one over all
        heads."""
        return x

    def dealt(self, layers: Sequence[Tensor]) -> Tensor:
        """All heads of this process's layer, (n, H, D). ``layers`` holds, for each process, this one's heads of that
        one's layer, (n, H / size, D)."""
        return layers[0]

    def collected(self, own: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """What all processes found for their layers, each (length, ...): process p for layers p, p + size and so on. In
        the last round a process may have one more than there are ``lengths``."""
        return list(own)

    def all(self, flag: Tensor) -> Tensor:
        """Whether ``flag``, a bool, holds in all processes."""
        return flag

    def agreed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The first process's tensors, all of one dtype; the others' have the same shapes."""
        return list(tensors)


ALONE = Group()
