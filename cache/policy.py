"""Which tokens stay: pure functions from candidates to kept indices, one layer at a time.

Sink tokens (the first ever) and recent tokens (the newest) always stay; the rest compete for what is left. What a
policy must know beyond the stored numbers stands in its ``needs``: names of ``Evidence`` fields that the clean pass
gathers for it, and for it alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cache.errors import CacheError, CacheFull
from cache.scoring import redundancy

SEED_PRIME = 1_000_003  # spreads seeds over the numbers
SEED_LIMIT = 2**62
SPLITMIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))  # (shift, factor) of splitmix64, signed
NOTHING: frozenset[str] = frozenset()
SHARPNESS = 2  # of salience against novelty: chosen by measurement (docs/method.md)
VALUE_POWER = 4  # of a value's distance, chosen on clips that no table reports
WISH = 4  # how much more a token is worth that a prompt has surely named
SURE = 1e-4  # a score this close to 0 or 1 is taken for no surer than that


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a clean pass saw; n = kept + chunk tokens of a layer. A field is given when the policy needs it."""

    salience: Tensor | None = None  # (layers, chunk), the head's score of the new tokens, in [0, 1]
    attention: Sequence[Tensor] | None = None  # per layer (n,): mean over heads and queries of the attention received
    affinity: Sequence[Tensor] | None = None  # per layer (n,): mean over heads and queries of q k / sqrt(D), rotated
    asked: Sequence[Tensor] | None = None  # per layer (n,): how surely the prompt names what it shows, in [0, 1]
    told: Sequence[Tensor] | None = None  # per layer (n,): as affinity, of the prompt's words
    future: Sequence[Tensor] | None = None  # per layer (n,): attention that each token is still going to receive

    def of_layer(self, layer: int) -> dict[str, Tensor]:
        """What was given, of one layer."""
        return {name: rows[layer] for name, rows in vars(self).items() if rows is not None}

    def check(self, policy: Policy, fresh: int, counts: list[int]) -> None:
        """Raise CacheError unless this is of ``counts`` tokens by layer, ``fresh`` of them new, and ``policy`` finds
        all that it needs."""
        layers = len(counts)
        if self.salience is not None and self.salience.shape != (layers, fresh):
            raise CacheError(f"salience has shape {tuple(self.salience.shape)}, expected ({layers}, {fresh})")
        for name in ("attention", "affinity", "asked", "told", "future"):
            rows = getattr(self, name)
            if rows is not None and (lengths := [len(row) for row in rows]) != counts:
                raise CacheError(f"evidence {name!r} has {lengths} tokens by layer, expected {counts}")
        for name in policy.needs:
            if getattr(self, name) is None:
                raise CacheError(f"policy {policy.name!r} needs evidence {name!r}, but commit was not given any")


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The tokens of one layer after a chunk was written, oldest first: n = kept + chunk."""

    positions: Tensor  # (n, 3) float32, (t, h, w) as given, never re-indexed
    numbers: Tensor  # (n,) int64, the token's number since the stream began
    scores: Tensor  # (n,) float32: what ``Policy.update`` made of them; 0 of a new token before that
    fresh: int  # so many tokens at the end are the chunk's own
    budget: int
    sink: int
    recent: int
    seed: int
    chunk: int  # chunks committed before this one
    layer: int
    read_keys: Callable[[], Tensor]  # whoever looks at no keys does not pay for them
    read_values: Callable[[], Tensor]
    salience: Tensor | None = None  # (fresh,); this and the following: evidence of this pass, where it is needed
    attention: Tensor | None = None  # (n,)
    affinity: Tensor | None = None  # (n,)
    asked: Tensor | None = None  # (n,)
    told: Tensor | None = None  # (n,)
    future: Tensor | None = None  # (n,)

    @property
    def count(self) -> int:
        return self.numbers.shape[0]

    @cached_property
    def keys(self) -> Tensor:
        """(n, H, D), turned by row and column, not by time."""
        return self.read_keys()

    @cached_property
    def values(self) -> Tensor:
        """(n, H, D)."""
        return self.read_values()

    @property
    def latents(self) -> Tensor:
        """Latent frame of each token since the stream began (n,) int64."""
        return self.positions[:, 0].round().to(torch.int64)


class Choice(NamedTuple):
    """What a policy wants kept. ``sound``, where it ranked by numbers that may be none: a bool on the device, False
    when one of them is not finite; nobody waits for it, the cache then keeps by the fallback policy instead."""

    indices: Tensor  # (k,) int64, sorted, at most ``budget``
    sound: Tensor | None = None  # () bool


class Policy(Protocol):
    """Numbers in, kept indices out; knows no model and keeps no state. How many stay must not depend on what the
    numbers are, or every chunk would wait for the device."""

    name: str
    needs: frozenset[str]  # fields of Evidence

    def update(self, candidates: Candidates) -> Tensor:
        """The scores (n,) that are stored with the tokens from now on, and that ``keep`` is given next."""
        ...

    def keep(self, candidates: Candidates) -> Choice:
        """At most ``budget`` tokens, sink and recent ones among them."""
        ...


def keep_best(candidates: Candidates, worth: Tensor) -> Tensor:
    """Sink, recent, and of the rest those of highest ``worth`` (n,): the shape of every competing policy."""
    worth = worth.clone()
    worth[: candidates.sink] = torch.inf
    worth[candidates.count - candidates.recent :] = torch.inf
    return worth.topk(candidates.budget).indices.sort().values


def scored_once(candidates: Candidates) -> Tensor:
    """New tokens take the head's score, if there is one, and keep it."""
    if candidates.salience is None:
        return candidates.scores
    return torch.cat((candidates.scores[: candidates.count - candidates.fresh], candidates.salience))


class Full:
    """Keeps everything and refuses to overflow: the reference that other policies are compared with."""

    name = "full"
    needs = NOTHING

    def update(self, candidates: Candidates) -> Tensor:
        return scored_once(candidates)

    def keep(self, candidates: Candidates) -> Choice:
        if candidates.count > candidates.budget:
            raise CacheFull(
                f"policy 'full' never evicts, and {candidates.count} tokens do not fit its budget of "
                f"{candidates.budget}: raise the budget, end the stream here, or choose another policy"
            )
        return everything(candidates)


class Competing(ABC):
    """A policy that is a ranking: ``worth`` (n,) says what a token is worth, the budget takes the best."""

    name: str
    needs = NOTHING
    ranks_scores = True  # numbers that come from the model, and may be none

    @abstractmethod
    def worth(self, candidates: Candidates) -> Tensor: ...

    def update(self, candidates: Candidates) -> Tensor:
        return scored_once(candidates)

    def keep(self, candidates: Candidates) -> Choice:
        if candidates.count <= candidates.budget:
            return everything(candidates)
        worth = self.worth(candidates)
        return Choice(keep_best(candidates, worth), worth.isfinite().all() if self.ranks_scores else None)


class Window(Competing):
    """Keeps the newest tokens."""

    name = "window"
    ranks_scores = False

    def worth(self, candidates: Candidates) -> Tensor:
        return torch.arange(candidates.count, dtype=torch.float32, device=candidates.numbers.device)


class SinkWindow(Window):
    """Keeps the first tokens ever and the newest ones (LongLive)."""

    name = "sink_window"


class Random(Competing):
    """Keeps sink, recent, and a uniform choice of the rest: one draw for each token, the same in all layers, for good.

    A draw anew at every commit would hardly let any token live long.
    """

    name = "random"
    ranks_scores = False

    def worth(self, candidates: Candidates) -> Tensor:
        mixed = candidates.numbers + (candidates.seed * SEED_PRIME) % SEED_LIMIT
        for shift, factor in SPLITMIX:  # integer arithmetic that wraps is the same on every device
            mixed = (mixed ^ ((mixed >> shift) & (2 ** (64 - shift) - 1))) * factor
        return ((mixed >> 40) & (2**24 - 1)).float()


class Attention(Competing):
    """Keeps what was looked at most so far (heavy hitters, H2O): scores add up over all clean passes."""

    name = "attention"
    needs = frozenset({"attention"})

    def update(self, candidates: Candidates) -> Tensor:
        return candidates.scores + given(candidates.attention, "attention")

    def worth(self, candidates: Candidates) -> Tensor:
        return candidates.scores


class Redundancy(Competing):
    """Keeps what no newer key repeats (R-KV's idea without its attention term): the strong rule without learning."""

    name = "redundancy"

    def worth(self, candidates: Candidates) -> Tensor:
        return novelty(candidates)


class Salience(Competing):
    """Keeps what the head finds salient: the paper's top-k of the learned score."""

    name = "salience"
    needs = frozenset({"salience"})

    def worth(self, candidates: Candidates) -> Tensor:
        return candidates.scores


class Pafu(Competing):
    """Odds of the learned salience x novelty: a copy of what a newer token shows anyway is worth nothing, however
    salient. The head gives every chunk the same share of high scores; odds spread scores near
    0 and 1, so a clear score outweighs partial redundancy."""

    name = "pafu"
    needs = frozenset({"salience"})

    def worth(self, candidates: Candidates) -> Tensor:
        score = candidates.scores.clamp(SURE, 1 - SURE)
        return (score / (1 - score)) ** SHARPNESS * novelty(candidates)


class Asked(Competing):
    """What the words ask for, beside what is plain to see: values far from the mean, more so the surer the asking head
    is that a prompt has named them, unless a newer token that is worth as much repeats them.

    The prompt is asked at every commit about all tokens, so that it may name what was seen long ago; a token keeps the
    highest answer that it ever got.
    """

    name = "asked"
    needs = frozenset({"asked"})

    def update(self, candidates: Candidates) -> Tensor:
        return torch.maximum(candidates.scores, given(candidates.asked, "asked"))

    def worth(self, candidates: Candidates) -> Tensor:
        wish = 1 + WISH * candidates.scores
        return distinctness(candidates) ** VALUE_POWER * wish * novelty(candidates, wish)


class Oracle(Competing):
    """True future attention x novelty: a ceiling for orientation, in evaluations only."""

    name = "oracle"
    needs = frozenset({"future"})

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.future, "future") * novelty(candidates)


def everything(candidates: Candidates) -> Choice:
    """Nobody has to go."""
    return Choice(torch.arange(candidates.count, device=candidates.numbers.device))


def novelty(candidates: Candidates, wish: Tensor | None = None) -> Tensor:
    """1 - redundancy against newer tokens (n,): the same thing at the same place is a copy, whenever it was seen. A
    copy that is wished for less (``wish``, (n,)) stands in for a token by as much less."""
    return 1 - redundancy(candidates.keys, candidates.latents, wish)


def distinctness(candidates: Candidates) -> Tensor:
    """Distance of each value from the mean value, by the mean distance: (n,)."""
    values = candidates.values.flatten(1).float()
    distance = (values - values.mean(0)).norm(dim=-1)
    relative: Tensor = distance / distance.mean()
    return relative


def given(evidence: Tensor | None, name: str) -> Tensor:
    """The evidence. Raises CacheError when the clean pass did not bring it."""
    if evidence is None:
        raise CacheError(f"the policy needs evidence {name!r}, but commit was not given any")
    return evidence
