"""Promise: any sequence of cache operations keeps the cache's invariants. The reference is a plain list per layer."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache.config import POLICY_NAMES, RULES, promised_bytes
from cache.errors import CacheFull
from cache.kv_cache import KVCache
from cache.policy import Evidence
from cache.storage import Geometry

LAYERS, HEADS, HEAD_DIM, CHUNK = 2, 1, 2, 4
GEOMETRY = {"layers": LAYERS, "heads": HEADS, "head_dim": HEAD_DIM, "chunk": CHUNK}


# Policies whose scores the slow twin can follow: the head's, or attention that adds up.
FOLLOWED = [  # what the machine can foretell; "asked" is in test_policy.py
    name
    for name in POLICY_NAMES
    if (name not in RULES or name in ("attention", "redundancy", "value_novelty")) and name != "asked"
]


class CacheMachine(RuleBasedStateMachine):
    """Tokens are numbered from the start of the stream; a token's number is its key and column, its value is one
    less."""

    def __init__(self) -> None:
        super().__init__()
        self.history = 0  # tokens committed so far
        self.alive: list[list[int]] = [[] for _ in range(LAYERS)]
        self.open = False
        self.full = False
        self.fallen = False
        self.scores: list[dict[int, float]] = [{} for _ in range(LAYERS)]

    @initialize(
        policy=st.sampled_from(FOLLOWED),
        sink=st.integers(0, 6),
        recent=st.integers(0, 6),
        spare=st.integers(0, 20),
        position_range=st.one_of(st.none(), st.integers(2, 9)),
        seed=st.integers(0, 2**40),
    )
    def build(self, policy: str, sink: int, recent: int, spare: int, position_range: int | None, seed: int) -> None:
        self.policy, self.recent, self.range, self.seed = policy, recent, position_range, seed
        self.sink = 0 if policy == "window" else sink
        self.budget = max(1, self.sink + recent + spare)
        self.cache = self.new_cache()

    def new_cache(self) -> KVCache:
        return KVCache(
            Geometry(**GEOMETRY, dtype=torch.bfloat16),
            budget=self.budget,
            policy=self.policy,
            sink=self.sink,
            recent=self.recent,
            position_range=self.range,
            seed=self.seed,
        )

    def numbers(self) -> torch.Tensor:
        return torch.arange(self.history, self.history + CHUNK).float()

    @precondition(lambda self: not self.full)
    @rule()
    def begin(self) -> None:
        numbers = self.numbers()
        time = (numbers / 2).floor()
        self.cache.begin_chunk(torch.stack((time, torch.zeros(CHUNK), numbers), dim=-1))
        self.open = True

    @precondition(lambda self: self.open)
    @rule(passes=st.integers(1, 3), broken=st.integers(0, 9), luck=st.integers(0, 2**20))
    def attend_and_commit(self, passes: int, broken: int, luck: int) -> None:
        tokens = self.numbers().view(1, CHUNK, 1, 1).expand(1, CHUNK, HEADS, HEAD_DIM) % 256  # exact in bf16
        for noise in reversed(range(passes)):  # the last, clean pass writes the numbers themselves
            for layer in range(LAYERS):
                keys, values = self.cache.extend(layer, tokens + noise, tokens - 1 - noise)
                assert keys.shape == (1, len(self.alive[layer]) + CHUNK, HEADS, HEAD_DIM)
                expected = torch.tensor(self.alive[layer] + self.numbers().int().tolist()).float() % 256
                if noise == 0:
                    self.cache.store(layer, tokens)
                    assert torch.equal(keys[0, :, 0, 0].float(), expected), "keys belong to other tokens"
                    assert torch.equal(values[0, :, 0, 0].float(), expected - 1), "values belong to other tokens"
        self.commit(luck, broken=broken == 0)

    def evidence(self, luck: int, broken: bool) -> Evidence:
        """Evidence for the policy; if ``broken``, one number of its scores is not finite."""
        generator = torch.Generator().manual_seed(luck)
        counts = [len(tokens) + CHUNK for tokens in self.alive]
        salience = torch.rand(LAYERS, CHUNK, generator=generator)
        attention = [torch.rand(n, generator=generator) for n in counts]
        if broken:
            salience[-1, 0] = attention[-1][0] = torch.nan
        asked = {
            "salience": salience,
            "attention": attention,
            "future": [torch.rand(n, generator=generator) for n in counts],
        }
        return Evidence(**{name: asked[name] for name in self.cache.needs})

    def expect_scores(self, evidence: Evidence) -> None:
        """The reference's scores: by layer, one for every token ever written."""
        for layer in range(LAYERS):
            scores, tokens = self.scores[layer], self.alive[layer] + self.numbers().int().tolist()
            for place, token in enumerate(tokens):
                scores.setdefault(token, 0.0)
                if evidence.salience is not None and place >= len(tokens) - CHUNK:
                    scores[token] = float(evidence.salience[layer, place - len(tokens)])
                if evidence.attention is not None:
                    scores[token] += float(evidence.attention[layer][place])

    def commit(self, luck: int, broken: bool) -> None:
        chunk = self.numbers().int().tolist()
        evidence, asked = self.evidence(luck, broken), bool(self.cache.needs & {"salience", "attention"})
        self.expect_scores(evidence)
        if broken and asked:
            self.fallen, self.scores = True, [dict.fromkeys(scores, 0.0) for scores in self.scores]
        try:
            self.cache.commit(evidence)
        except CacheFull:
            assert self.policy == "full" and len(self.alive[0]) + CHUNK > self.budget
            self.full = True
            self.open = False
            return
        self.open = False
        self.history += CHUNK
        for layer in range(LAYERS):
            before = self.alive[layer] + chunk
            after = self.cache.retained_positions()[layer][:, 2].int().tolist()
            assert after == sorted(after), "order was lost"
            assert set(after) <= set(before), "a token came from nowhere"
            assert len(after) == min(self.budget, len(before)), "room was wasted"
            assert before[: self.sink] == after[: self.sink], "a sink token was evicted"
            assert before[len(before) - self.recent :] == after[len(after) - self.recent :], "a recent token went"
            self.alive[layer] = after
            if self.fallen and len(before) > self.budget:
                assert after == before[: self.sink] + before[len(before) - (self.budget - self.sink) :]

    @rule()
    def move_house(self) -> None:
        """A snapshot restored into a new cache gives the same cache."""
        old, self.cache = self.cache, self.new_cache()
        self.cache.restore(old.snapshot())
        self.open = False
        assert self.cache.evicted_tokens == old.evicted_tokens and self.cache.chunks == old.chunks

    @invariant()
    def promises_hold(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert self.cache.nbytes == promised_bytes(**GEOMETRY, budget=self.budget, dtype="bfloat16")
        assert [self.cache.tokens(layer) for layer in range(LAYERS)] == [len(tokens) for tokens in self.alive]
        assert max(len(tokens) for tokens in self.alive) <= self.budget
        assert self.cache.evicted_tokens == sum(self.history - len(tokens) for tokens in self.alive)
        assert self.cache.fell_back == self.fallen
        assert self.cache.policy == ("sink_window" if self.fallen else self.policy)
        for layer, tokens in enumerate(self.alive):
            assert self.cache.retained_numbers()[layer].tolist() == tokens
            expected = torch.tensor([self.scores[layer][token] for token in tokens])
            assert torch.allclose(self.cache.retained_scores()[layer], expected)
        self.cache.check_integrity()

    @invariant()
    def relative_positions_stay_in_range(self) -> None:
        if not hasattr(self, "cache") or self.range is None:
            return
        for layer in range(LAYERS):
            time = self.cache.positions(layer)[0, :, 0]
            assert bool((time >= 0).all() and (time <= self.range - 1).all())
            if len(time):
                assert time[-1] == self.range - 1


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestCacheMachine = CacheMachine.TestCase
