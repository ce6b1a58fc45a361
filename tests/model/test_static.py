"""Promise: a chunk over a full cache has fixed shapes and never waits for the device: shown with the full Wan2.1 1.3B
on the meta device, where reading a value raises. Kernels and temporaries are counted there."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cache.config import SERVED_POLICIES, CacheConfig
from cache.host_tier import HostTier
from cache.kv_cache import KVCache
from model.spec import WAN_1_3B, ModelSpec
from model.stream import figures
from model.stream.session_cache import new_cache
from model.stream.video_stream import _Velocity
from model.transformer.asking import AskingHead
from model.transformer.attention import rotate_by_time
from model.transformer.dit import CausalDiT
from model.transformer.positions import grid_positions
from model.transformer.salience import SalienceHead
from model.weights import LoadedModel

SPEC, META = WAN_1_3B, torch.device("meta")
MOST_KERNELS, MOST_TEMPORARY = 9_500, 2**29


class Tally(TorchDispatchMode):
    """Counts operations that write, and the bytes of all live results. In inference mode, in which chunks are made, an
    operation with one fused GPU kernel counts as one."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.peak = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = [t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        new = any(storage._cdata not in given for storage in made) and "empty" not in func._schema.name
        self.kernels += new or func._schema.is_mutable  # else it is a view
        for storage in made:
            self._note(storage, given)
        return out

    def _note(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in given and key not in self._known:
            self._known.add(key)
            self._live += size
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    with META:
        made = (CausalDiT(SPEC), SalienceHead(SPEC), AskingHead(SPEC))
        parts = [part.bfloat16().requires_grad_(False) for part in made]
    parts[0].fuse()
    nothing: Any = None
    return LoadedModel(SPEC, parts[0], nothing, nothing, META, torch.bfloat16, "meta", parts[1], parts[2])


def full_cache(model: LoadedModel, policy: str, budget: float) -> KVCache:
    sink = 1.0 if policy == "sink_window" else 0.0
    config = CacheConfig.filled_in(policy, budget, sink, 1.5, most=3, host=6)
    cache = new_cache(model, config, 0, shared=True)
    cache._store.kept = list(cache._store.budgets)
    if cache._tier is not None:
        cache._tier.numbers[:] = torch.arange(cache._tier.slots)
    return cache


@pytest.fixture(autouse=True)
def copies_to_the_host_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not wait on a GPU, but the meta device has nothing to copy."""
    monkeypatch.setattr(HostTier, "_put", lambda *copied: None)


def chunk(model: LoadedModel, cache: KVCache, context: Any) -> None:
    """Everything that a chunk over a full cache does between text and decoder, including figures."""
    spec: ModelSpec = model.spec
    shape = (1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
    latents = torch.empty(shape, device=META)
    cache.begin_chunk(grid_positions(spec, 30, spec.chunk_latents)[0], rotate_by_time(spec))
    assert cache.full, "every slot and every recalled place is in use"
    velocity = _Velocity(model, context, cache, None)
    for timestep in spec.timesteps:
        velocity(latents, timestep)
    finite = latents.isfinite().all()
    cache.commit(velocity.last(latents), finite)
    figures.gather(cache, spec, finite, scored=True)
    cache.settle(sound=True)


OTHERS = set(SERVED_POLICIES) - {"full", "sink_window", "attention", "pafu", "asked", "value_novelty"}


@pytest.mark.parametrize(
    "policy",
    [
        *("sink_window", "attention", "pafu", "asked", "value_novelty"),
        *(pytest.param(policy, marks=pytest.mark.proof) for policy in sorted(OTHERS)),
    ],
)
@torch.inference_mode()
def test_a_chunk_over_a_full_cache_asks_the_device_nothing(model: LoadedModel, policy: str) -> None:
    cache = full_cache(model, policy, 6)
    context = model.dit.encode_context(torch.empty(1, 1, SPEC.text_len, SPEC.text_dim, device=META))
    before = list(cache._store.kept)
    with Tally() as tally:
        chunk(model, cache, context)
    assert cache._store.kept == before, "the next chunk would have other shapes"
    print(f"{policy}: {tally.kernels} kernels, {tally.peak / 2**20:.0f} MiB of temporaries")
    if policy == "pafu":
        assert tally.kernels <= MOST_KERNELS
        assert tally.peak <= MOST_TEMPORARY


def test_the_tally_sees_a_question_and_a_temporary(model: LoadedModel) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool(torch.ones(3, device=META).all())
    with Tally() as tally:
        kept = torch.empty(1000, device=META)
        (kept + 1).view(10, 100).exp()
    assert (tally.kernels, tally.peak) == (2, 12_000)
