"""Promise: passes leave a core to the decoding thread while it works, use all cores otherwise, and make the same bits
with any number of threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
import torch

from model.spec import PAFU_MINI
from model.transformer.packed import can_pack, pack
from model.weights import load_model as load_weights
from server.ipc.messages import CacheChoice
from server.worker.generator import ModelGenerator, load_model

CACHE = CacheChoice(policy="value_novelty", budget_latents=3, sink_latents=0, recent_latents=1)


@pytest.fixture
def threads() -> Iterator[None]:
    usual = torch.get_num_threads()
    yield
    torch.set_num_threads(usual)


def test_passes_leave_a_core_to_the_decoding_thread_only_while_it_works(threads) -> None:
    torch.set_num_threads(3)
    generator = ModelGenerator(load_model("test-tiny", None, "cpu")[0], "", "cpu", {})
    stream, seen = generator.open("a meadow", 1, CACHE), list[int]()
    may_end, inside = threading.Event(), list[int]()

    def work() -> None:
        inside.append(torch.get_num_threads())
        assert may_end.wait(30)

    with generator.decoding_thread() as executor:
        working = executor.submit(work)
        stream.next_latents(lambda: seen.append(torch.get_num_threads()))
        may_end.set()
        working.result()
        stream.next_latents(lambda: None)
        after = torch.get_num_threads()
    assert (seen[1:], inside, after) == ([2] * len(seen[1:]), [1], 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_number_of_threads_does_not_change_the_bits(threads, dtype) -> None:
    model = load_weights(PAFU_MINI, dtype=dtype)
    if can_pack(model.dit):
        pack(model.dit)
    generator = ModelGenerator(model, "", "cpu", {})

    def film(numbers: list[int]) -> list[torch.Tensor]:
        stream, turn = generator.open("a red house and a white mill", 7, CACHE), itertools.cycle(numbers)
        return [stream.next_latents(lambda: torch.set_num_threads(next(turn))).past.latents for _ in range(3)]

    one, changing = film([1]), film([1, 2, 2, 3, 1])
    assert all(torch.equal(a, b) for a, b in zip(one, changing, strict=True))
