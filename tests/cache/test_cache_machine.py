"""Whatever is done with a cache, in any order: its promises hold. A plain list per layer is the slow twin."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache.config import promised_bytes
from cache.errors import CacheFull
from cache.kv_cache import KVCache

LAYERS, HEADS, HEAD_DIM, CHUNK = 2, 1, 2, 4
GEOMETRY = {"layers": LAYERS, "heads": HEADS, "head_dim": HEAD_DIM, "chunk": CHUNK}


class CacheMachine(RuleBasedStateMachine):
    """Tokens are numbered from the stream's start; a token's number is its key and column, its value is one less."""

    def __init__(self) -> None:
        super().__init__()
        self.history = 0  # tokens committed so far
        self.alive: list[list[int]] = [[] for _ in range(LAYERS)]
        self.open = False
        self.full = False

    @initialize(
        policy=st.sampled_from(["full", "window", "sink_window", "random"]),
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
            **GEOMETRY,
            budget=self.budget,
            policy=self.policy,
            sink=self.sink,
            recent=self.recent,
            dtype=torch.bfloat16,
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
    @rule(passes=st.integers(1, 3))
    def attend_and_commit(self, passes: int) -> None:
        tokens = self.numbers().view(1, CHUNK, 1, 1).expand(1, CHUNK, HEADS, HEAD_DIM) % 256  # exact in bf16
        for noise in reversed(range(passes)):  # the last, clean pass writes the numbers themselves
            for layer in range(LAYERS):
                keys, values = self.cache.extend(layer, tokens + noise, tokens - 1 - noise)
                assert keys.shape == (1, len(self.alive[layer]) + CHUNK, HEADS, HEAD_DIM)
                expected = torch.tensor(self.alive[layer] + self.numbers().int().tolist()).float() % 256
                if noise == 0:
                    assert torch.equal(keys[0, :, 0, 0].float(), expected), "keys belong to other tokens"
                    assert torch.equal(values[0, :, 0, 0].float(), expected - 1), "values belong to other tokens"
        self.commit()

    def commit(self) -> None:
        chunk = self.numbers().int().tolist()
        try:
            self.cache.commit()
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

    @rule()
    def move_house(self) -> None:
        """A snapshot put into a new cache is the same cache."""
        old, self.cache = self.cache, self.new_cache()
        self.cache.load(old.save())
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


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestCacheMachine = CacheMachine.TestCase
