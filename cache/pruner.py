"""Applies a session's policy, and falls back to another one if its scores are not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cache.config import FALLBACK_POLICY
from cache.errors import CacheError
from cache.group import ALONE, Group
from cache.policy import Candidates, Choice, Merge, Policy, given
from cache.registry import policy_named


class Verdict(NamedTuple):
    """Per layer: which tokens to keep, and what to store with all candidates."""

    kept: list[Tensor]  # (k,) int64, sorted
    merges: list[Merge]  # empty under a policy that merges nothing
    told: dict[str, list[Tensor]]  # (n, ...): the new scores and, if the policy uses them, ``asked`` and copies


class Pruner:
    """Applies the policy of one session. Raises PolicyError for an unknown name.

    If a score is not finite, the session falls back for good to a policy without scores (``fell_back``). This check
    does not make the host wait for the device: the verdict is then already the fallback's, and ``settle`` updates the
    host later.
    """

    def __init__(self, policy: str, sink: int, group: Group = ALONE) -> None:
        self._configured, self._sink, self._group = policy, sink, group
        self._policy: Policy = policy_named(policy)
        self._fell_back = False
        self._sound: Tensor | None = None  # are all scores of the newest verdict finite? None: nothing to read

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        self.settle()
        return self._policy

    @property
    def fell_back(self) -> bool:
        """Whether the fallback policy is in force."""
        self.settle()
        return self._fell_back

    def judge(self, candidates: Iterable[Candidates], counts: Sequence[int], left: Sequence[int]) -> Verdict:
        """Decide which candidates to keep, layer by layer, and their new scores. Changes nothing if it raises.
        ``counts``: of the candidates of each layer, ``left``: of those that are kept. In a group the processes share
        the layers out, and tell each other.

        Each layer's candidates are released before the next layer's are read, so temporaries of only one layer exist at
        a time.
        """
        policy = self.policy
        scores, kept, judged, asked, copies, merges = [], [], [], [], [], list[Merge]()
        ends = []
        for each in candidates:
            scored = dataclasses.replace(each, scores=policy.update(each))
            choice = self._choose(policy, scored)
            kept.append(choice.indices)
            ends.append(self._ends(scored))
            scores.append(scored.scores)
            judged += [] if choice.sound is None else [choice.sound]
            merges += [] if choice.merge is None else [choice.merge]
            asked += [given(scored.asked, "asked")] if "asked" in policy.needs else []
            copies += [scored.copies] if "copies" in policy.reads else []
        if judged or policy.needs:
            finite = (row.isfinite().all() for row in (*scores, *asked))
            self._sound = self._group.all(torch.stack([*judged, *finite]).all())
            kept = [torch.where(self._sound, *rows) for rows in zip(kept, ends, strict=True)]
            scores, asked = ([torch.where(self._sound, row, 0) for row in rows] for rows in (scores, asked))
            merges = [each.unless(self._sound) for each in merges]
        told = {"scores": scores} | ({"asked": asked} if asked else {})
        if copies:
            told |= {"copy_cosines": [each.cosines for each in copies], "copy_places": [each.places for each in copies]}
        collected = {name: self._group.collected(rows, counts) for name, rows in told.items()}
        parts = [self._group.collected(part, counts) for part in zip(*merges, strict=True)]
        merges = [Merge(*each) for each in zip(*parts, strict=True)]
        return Verdict(self._group.collected(kept, left), merges, collected)

    def _choose(self, policy: Policy, candidates: Candidates) -> Choice:
        """Apply the policy and check its result, because wrong indices would corrupt the slots of other tokens.

        The number of indices is always checked; the indices themselves only on the CPU, where reading them costs
        nothing.
        """
        choice = policy.keep(candidates)
        indices = choice.indices
        if len(indices) > candidates.budget:
            raise CacheError(f"policy {policy.name!r} kept {len(indices)} tokens, budget {candidates.budget}")
        if indices.device.type == "cpu" and len(indices):
            if bool((indices.diff() <= 0).any()) or int(indices[-1]) >= candidates.count:
                raise CacheError(f"policy {policy.name!r} must return sorted, distinct indices of its candidates")
        return choice

    def _ends(self, candidates: Candidates) -> Tensor:
        """The fallback policy's choice: the first and the newest."""
        places = torch.arange(candidates.count, device=candidates.scores.device)
        gone = max(0, candidates.count - candidates.budget)
        return torch.cat((places[: self._sink], places[self._sink + gone :]))

    def report(self) -> Tensor | None:
        """A bool on the device, whether all scores of the last verdict are finite. Read it and pass it to
        ``settle``."""
        return self._sound

    def settle(self, sound: bool | None = None) -> None:
        """Record whether the last verdict's scores were finite. ``sound`` is the value of ``report``; if it is None,
        this waits for the device."""
        if self._sound is not None:
            if sound is None:
                sound = bool(self._sound)
            if not sound:
                self.fall_back()
            self._sound = None

    def fall_back(self) -> None:
        """Use the fallback policy from now on."""
        self._policy, self._fell_back = policy_named(FALLBACK_POLICY), True

    def reset(self, fell_back: bool) -> None:
        """Restore the state of a snapshot."""
        self._policy, self._fell_back, self._sound = policy_named(self._configured), False, None
        if fell_back:
            self.fall_back()

    def take_back(self) -> None:
        """Forget the last verdict: its chunk was not valid."""
        self._sound = None
