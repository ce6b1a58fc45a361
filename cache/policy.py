"""Cache policies: pure functions from a layer's candidate tokens to the indices to keep.

Sink tokens (the first of the stream) and recent tokens (the newest) are always kept; the others compete for the rest of
the budget. ``needs`` names the ``Evidence`` fields that a policy uses; the clean pass gathers only these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cache.copies import Copies, nearest_copies
from cache.errors import CacheError, CacheFull

SEED_PRIME = 1_000_003  # multiplier that separates the seeds of sessions
SEED_LIMIT = 2**62
SPLITMIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))  # (shift, factor) of splitmix64, signed
NOTHING: frozenset[str] = frozenset()
KEYS = frozenset({"keys"})
COPIES = frozenset({"keys", "copies"})
COPIES_AND_VALUES = frozenset({"keys", "copies", "values"})
SHARPNESS = 2  # exponent of the salience odds; chosen by measurement (docs/method.md)
VALUE_POWER = 4  # exponent of a value's distance; chosen on clips that no reported table uses
NAMED = 12  # extra weight of a token that a prompt has certainly named; chosen on split tune (docs/log.md)
SURE = 1e-4  # scores are clamped to [SURE, 1 - SURE]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the clean pass observed. A layer has n = kept + chunk tokens. Only the fields that the policy needs are
    set."""

    salience: Tensor | None = None  # (layers, chunk): the head's score of the new tokens, in [0, 1]
    attention: Sequence[Tensor] | None = None  # per layer (n,): attention received, mean over heads and queries
    strongest: Sequence[Tensor] | None = None  # per layer (n,): attention received in the head that gives it most
    affinity: Sequence[Tensor] | None = None  # per layer (n,): mean over heads and queries of q k / sqrt(D), rotated
    expected: Sequence[Tensor] | None = None  # per layer (n,): product with later queries, see ``expected_affinity``
    asked: Sequence[Tensor] | None = None  # per layer (n,): how surely this prompt names what the token shows, [0, 1]
    told: Sequence[Tensor] | None = None  # per layer (n,): as affinity, but with the keys of the prompt's words
    future: Sequence[Tensor] | None = None  # per layer (n,): attention that each token will receive in the future

    def of_layer(self, layer: int) -> dict[str, Tensor]:
        """The fields that are set, for one layer."""
        return {name: rows[layer] for name, rows in vars(self).items() if rows is not None}

    def check(self, policy: Policy, fresh: int, counts: list[int]) -> None:
        """Raise CacheError unless the fields have ``counts`` tokens by layer, ``fresh`` of them new, and ``policy`` has
        everything that it needs."""
        layers = len(counts)
        if self.salience is not None and self.salience.shape != (layers, fresh):
            raise CacheError(f"salience has shape {tuple(self.salience.shape)}, expected ({layers}, {fresh})")
        for name in ("attention", "strongest", "affinity", "expected", "asked", "told", "future"):
            rows = getattr(self, name)
            if rows is not None and (lengths := [len(row) for row in rows]) != counts:
                raise CacheError(f"evidence {name!r} has {lengths} tokens by layer, expected {counts}")
        for name in policy.needs:
            if getattr(self, name) is None:
                raise CacheError(f"policy {policy.name!r} needs evidence {name!r}, but commit was not given any")


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The tokens of one layer after a chunk was written, oldest first: n = kept + chunk."""

    positions: Tensor  # (n, 3) float32: (t, h, w) as given, never re-indexed
    numbers: Tensor  # (n,) int64: the token's index since the start of the stream
    scores: Tensor  # (n,) float32: as returned by ``Policy.update``; 0 for new tokens
    fresh: int  # number of new tokens, at the end
    budget: int
    sink: int
    recent: int
    seed: int
    chunk: int  # chunks committed before this one
    layer: int
    read_keys: Callable[[], Tensor]  # a function, since most policies read no keys
    read_values: Callable[[], Tensor]
    compared: Copies | None = None  # the copies of the kept tokens among each other; None: nothing is compared yet
    salience: Tensor | None = None  # (fresh,); this and the next fields are the layer's evidence
    attention: Tensor | None = None  # (n,)
    strongest: Tensor | None = None  # (n,)
    affinity: Tensor | None = None  # (n,)
    expected: Tensor | None = None  # (n,)
    asked: Tensor | None = None  # (n,): the highest of this prompt and those before
    told: Tensor | None = None  # (n,)
    future: Tensor | None = None  # (n,)

    @property
    def count(self) -> int:
        """n, kept and new tokens together."""
        return self.numbers.shape[0]

    @cached_property
    def keys(self) -> Tensor:
        """(n, H, D), rotated by row and column but not by time."""
        return self.read_keys()

    @cached_property
    def values(self) -> Tensor:
        """(n, H, D)."""
        return self.read_values()

    @cached_property
    def copies(self) -> Copies:
        """The nearest newer copies of all tokens."""
        return nearest_copies(self.keys, self.latents, self.compared)

    def read_all(self, what: frozenset[str]) -> None:
        """Read ``what`` of keys and values now, not when the policy first uses them."""
        for name, read in (("keys", self.read_keys), ("values", self.read_values)):
            if name in what:
                read()

    @property
    def latents(self) -> Tensor:
        """Latent frame of each token since the start of the stream, (n,) int64."""
        return self.positions[:, 0].round().to(torch.int64)


class Merge(NamedTuple):
    """What becomes of the keys and values of all n candidates: each token's, times its weight, are added up at the kept
    token that it goes to."""

    onto: Tensor  # (n,) int64: index of a candidate; its own for kept tokens. What goes to a dropped token is lost
    weights: Tensor  # (n,) float32; those that go to one token add up to 1

    @classmethod
    def nothing(cls, like: Tensor) -> Merge:
        """Every one of n tokens stays as it is; ``like`` (n, ...) is on their device."""
        return cls(torch.arange(len(like), device=like.device), torch.ones(len(like), device=like.device))

    def unless(self, sound: Tensor) -> Merge:
        """This, or nothing if ``sound``, a bool on the device, is False."""
        return Merge(*(torch.where(sound, *each) for each in zip(self, Merge.nothing(self.onto), strict=True)))


class Choice(NamedTuple):
    """The tokens to keep. ``sound`` is a bool on the device: False if a number that ranked the tokens is not finite.
    The host does not wait for it; the cache then uses the fallback policy's choice. A policy returns a ``merge`` always
    or never."""

    indices: Tensor  # (k,) int64, sorted, at most ``budget``
    sound: Tensor | None = None  # () bool
    merge: Merge | None = None


class Policy(Protocol):
    """A policy is stateless and independent of the model. The number of tokens it keeps must not depend on their
    values, or every chunk would wait for the device."""

    name: str
    needs: frozenset[str]  # fields of Evidence
    # "keys", "values", "copies" of the candidates. Copies need keys, and are stored with the tokens. Where heads are
    # shared out, keys and values are gathered.
    reads: frozenset[str]
    recalls: bool  # whether evicted tokens wait in host memory, and the best ones come back for each chunk

    def update(self, candidates: Candidates) -> Tensor:
        """The scores (n,) to store with the tokens; the next ``update`` and ``keep`` receive them."""
        ...

    def keep(self, candidates: Candidates) -> Choice:
        """At most ``budget`` tokens, including the sink and recent ones."""
        ...


def keep_best(candidates: Candidates, worth: Tensor) -> Tensor:
    """Keep sink, recent, and the tokens with the highest ``worth`` (n,) among the rest."""
    worth = worth.clone()
    worth[: candidates.sink] = torch.inf
    worth[candidates.count - candidates.recent :] = torch.inf
    return worth.topk(candidates.budget).indices.sort().values


def scored_once(candidates: Candidates) -> Tensor:
    """Scores that are set once: a new token gets the head's score, if there is one, and keeps it."""
    if candidates.salience is None:
        return candidates.scores
    return torch.cat((candidates.scores[: candidates.count - candidates.fresh], candidates.salience))


class Full:
    """Keeps every token and raises CacheFull beyond the budget: the reference for other policies."""

    name = "full"
    needs = reads = NOTHING
    recalls = False

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
    """A policy defined by a ranking: the tokens of highest ``worth`` (n,) are kept."""

    name: str
    needs = reads = NOTHING
    recalls = False
    ranks_scores = True  # whether the ranking uses model outputs, which may be non-finite

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
    """Keeps the first tokens of the stream and the newest ones (LongLive)."""

    name = "sink_window"


class Random(Competing):
    """Keeps sink, recent, and a uniform choice of the rest. Each token gets one random number for its whole life, the
    same in all layers: drawing anew at every commit would evict nearly every token soon."""

    name = "random"
    ranks_scores = False

    def worth(self, candidates: Candidates) -> Tensor:
        mixed = candidates.numbers + (candidates.seed * SEED_PRIME) % SEED_LIMIT
        for shift, factor in SPLITMIX:  # wrapping integer arithmetic gives the same result on every device
            mixed = (mixed ^ ((mixed >> shift) & (2 ** (64 - shift) - 1))) * factor
        return ((mixed >> 40) & (2**24 - 1)).float()


class Attention(Competing):
    """Keeps the tokens that received the most attention so far, summed over all clean passes (heavy hitters, H2O)."""

    name = "attention"
    needs = frozenset({"attention"})

    def update(self, candidates: Candidates) -> Tensor:
        return candidates.scores + given(candidates.attention, "attention")

    def worth(self, candidates: Candidates) -> Tensor:
        return candidates.scores


class Redundancy(Competing):
    """Keeps tokens that no newer key repeats (R-KV without its attention term)."""

    name = "redundancy"
    reads = COPIES

    def worth(self, candidates: Candidates) -> Tensor:
        return novelty(candidates)


class Salience(Competing):
    """Keeps the tokens with the highest score of the salience head: the paper's top-k."""

    name = "salience"
    needs = frozenset({"salience"})

    def worth(self, candidates: Candidates) -> Tensor:
        return candidates.scores


class Pafu(Competing):
    """Odds of the salience score x distance of the value from the mean x novelty: a token that a newer one repeats is
    worth nothing, however salient. The head gives every chunk the same share of high scores; the distance says how much
    there is to remember."""

    name = "pafu"
    needs = frozenset({"salience"})
    reads = COPIES_AND_VALUES

    def worth(self, candidates: Candidates) -> Tensor:
        return salient(candidates) * novelty(candidates)


class Asked(Competing):
    """As ``pafu``, with more weight the surer the asking head is that a prompt has named what the token shows. A newer
    copy of lower weight counts less.

    Every commit compares the current prompt with all tokens, so a prompt may also name something seen long ago.
    """

    name = "asked"
    needs = frozenset({"salience", "asked"})
    reads = COPIES_AND_VALUES

    def worth(self, candidates: Candidates) -> Tensor:
        weight = 1 + NAMED * given(candidates.asked, "asked")
        return salient(candidates) * weight * novelty(candidates, weight)


class Oracle(Competing):
    """True future attention x novelty: a reference for evaluations only."""

    name = "oracle"
    needs = frozenset({"future"})
    reads = COPIES

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.future, "future") * novelty(candidates)


def others(indices: Tensor, count: int) -> Tensor:
    """The indices below ``count`` that are not among the sorted ``indices`` (k,): (count - k,), sorted."""
    absent = torch.ones(count, device=indices.device).scatter(0, indices, 0.0)
    return absent.topk(count - len(indices)).indices.sort().values


def everything(candidates: Candidates) -> Choice:
    """Keep all candidates."""
    return Choice(torch.arange(candidates.count, device=candidates.numbers.device))


def salient(candidates: Candidates) -> Tensor:
    """The sharpened odds of the salience head's scores x the sharpened distance of the values, (n,). Odds stretch
    scores near 0 and 1, so a clear score outweighs partial redundancy."""
    score = candidates.scores.clamp(SURE, 1 - SURE)
    return (score / (1 - score)) ** SHARPNESS * distinctness(candidates) ** VALUE_POWER


def novelty(candidates: Candidates, weight: Tensor | None = None) -> Tensor:
    """1 - redundancy against newer tokens, (n,). A copy is the same thing at the same place, whenever it was seen. With
    ``weight`` (n,), a newer copy of lower weight counts proportionally less."""
    return 1 - candidates.copies.redundancy(weight)


def distinctness(candidates: Candidates) -> Tensor:
    """Each value's distance from the mean value, divided by the mean distance: (n,); 1 if all values are equal."""
    values = candidates.values.flatten(1)
    mean = values.mean(0, dtype=torch.float32).to(values.dtype)
    distance = torch.linalg.vector_norm(values - mean, dim=1, dtype=torch.float32)
    nothing = torch.finfo(distance.dtype).tiny
    relative: Tensor = (distance + nothing) / (distance.mean() + nothing)
    return relative


def given(evidence: Tensor | None, name: str) -> Tensor:
    """The evidence ``name``. Raises CacheError if the clean pass did not gather it."""
    if evidence is None:
        raise CacheError(f"the policy needs evidence {name!r}, but the clean pass gathered none")
    return evidence
