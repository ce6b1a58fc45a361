"""Who decides which tokens stay: a session's policy, and the one that takes over when its scores are no numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from cache.config import FALLBACK_POLICY
from cache.errors import CacheError
from cache.policy import Candidates, Choice, Policy
from cache.registry import policy_named


class Verdict(NamedTuple):
    """Per layer: the tokens that stay, and all candidates' scores from now on."""

    kept: list[Tensor]  # (k,) int64, sorted
    scores: list[Tensor]  # (n,) float32


class Pruner:
    """The policy of one session. Raises PolicyError for a name that it does not know.

    Scores that are not finite are no failure: the session falls back to a policy without scores, for good
    (``fell_back``). Nobody waits for the device to learn that: the verdict is the fallback's where it must be, and
    ``settle`` asks later.
    """

    def __init__(self, policy: str, budget: int, sink: int) -> None:
        self._configured, self._budget, self._sink = policy, budget, sink
        self._policy: Policy = policy_named(policy)
        self._fell_back = False
        self._sound: Tensor | None = None  # of the newest verdict, until the host has asked: were all scores numbers?

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        self.settle()
        return self._policy

    @property
    def fell_back(self) -> bool:
        self.settle()
        return self._fell_back

    def judge(self, candidates: Iterable[Candidates]) -> Verdict:
        """What stays of each layer's candidates, which hold the stored scores. Changes nothing when it raises.

        Candidates are taken one layer after the other: what a policy read of one is gone before it reads of the next.
        """
        policy = self.policy
        scores, kept, judged = [], [], []
        for each in candidates:
            scores.append(policy.update(each))
            choice = self._choose(policy, dataclasses.replace(each, scores=scores[-1]))
            kept.append(choice.indices)
            judged += [] if choice.sound is None else [choice.sound]
        if judged or policy.needs:
            self._sound = torch.stack([*judged, *(row.isfinite().all() for row in scores)]).all()
            kept = [torch.where(self._sound, row, self._ends(each)) for row, each in zip(kept, scores, strict=True)]
            scores = [torch.where(self._sound, row, 0) for row in scores]
        return Verdict(kept, scores)

    def _choose(self, policy: Policy, candidates: Candidates) -> Choice:
        """A policy is a guest: what it returns must fit the slots, or a later chunk would overwrite its neighbour.

        The number of tokens is checked everywhere; they themselves where looking at them is free.
        """
        choice = policy.keep(candidates)
        indices = choice.indices
        if len(indices) > self._budget:
            raise CacheError(f"policy {policy.name!r} kept {len(indices)} tokens, budget {self._budget}")
        if indices.device.type == "cpu" and len(indices):
            if bool((indices.diff() <= 0).any()) or int(indices[-1]) >= candidates.count:
                raise CacheError(f"policy {policy.name!r} must return sorted, distinct indices of its candidates")
        return choice

    def _ends(self, scores: Tensor) -> Tensor:
        """What the fallback policy keeps of so many tokens, whatever their scores: the first and the newest."""
        places = torch.arange(len(scores), device=scores.device)
        gone = max(0, len(scores) - self._budget)
        return torch.cat((places[: self._sink], places[self._sink + gone :]))

    def report(self) -> Tensor | None:
        """A bool on the device that ``settle`` wants the host to read: were all scores of the last verdict numbers?"""
        return self._sound

    def settle(self, sound: bool | None = None) -> None:
        """Learn how the last verdict went; without ``sound``, what ``report`` read as, this waits for the device."""
        if self._sound is not None:
            if sound is None:
                sound = bool(self._sound)
            if not sound:
                self.fall_back()
            self._sound = None

    def fall_back(self) -> None:
        self._policy, self._fell_back = policy_named(FALLBACK_POLICY), True

    def reset(self, fell_back: bool) -> None:
        """Be as in a snapshot."""
        self._policy, self._fell_back, self._sound = policy_named(self._configured), False, None
        if fell_back:
            self.fall_back()

    def take_back(self) -> None:
        """The last verdict was about no chunk."""
        self._sound = None
