"""How much memory a model takes, computed before any is allocated: on the meta device tensors have sizes but no memory.

Resident: the parts. Per session: its cache and its codec's state. Working memory: the peak of one transformer pass, or
of decoding one chunk. Sessions take turns, so working memory counts once.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cache.config import CACHE_SHARE, CacheConfig, room_for_caches, workspace_bytes
from cache.group import ALONE, Group
from model.group.cost import CountedGroup
from model.parts import VideoCodec, build
from model.spec import ModelSpec
from model.transformer import rope
from model.transformer.attention import attend_plainly
from model.transformer.dit import CausalDiT

GIB, MIB = 2**30, 2**20
CARDS = (16, 24, 32, 48, 80)  # GB of common GPUs
LEFT_FREE = 0.05  # share of a card's memory left for the driver and fragmentation


EASIER_BUDGETS = (6.0, 3.0)  # latent frames: suggested budgets if the usual one does not fit


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the device ``where``. ``text`` counts a text encoder that stays there; one that is moved there only to
    encode, between two chunks, counts as ``visit``."""

    where: str
    transformer: int
    text: int
    visit: int
    codec: int
    passing: int  # temporary memory of a pass, and of decoding
    decoding: int
    workspace: int  # dense keys and values, used by all sessions in turn
    cache: int  # of one session
    codec_state: int  # of one session
    devices: int = 1  # of the group, each with the whole transformer and its share of the rest

    @property
    def working(self) -> int:
        """The peak of temporary memory, without a visiting text encoder."""
        return max(self.passing, self.decoding)

    @property
    def resident(self) -> int:
        """Bytes that are allocated once."""
        return self.transformer + self.text + self.codec + self.workspace

    @property
    def busy(self) -> int:
        """The peak of temporary memory."""
        return max(self.working, self.visit)

    @property
    def session(self) -> int:
        """Bytes per session."""
        return self.cache + self.codec_state

    def sessions(self, room: int) -> int:
        """How many sessions a server admits into ``room`` bytes."""
        return room_for_caches(room - self.resident, self.busy) // self.session

    @property
    def least(self) -> int:
        """Bytes needed for one session."""
        return self.resident + max(self.busy + self.session, math.ceil(self.session / CACHE_SHARE))


PARTS: tuple[tuple[str, Callable[[MemoryPlan], int]], ...] = (
    ("transformer", lambda found: found.transformer),
    ("text encoder", lambda found: found.text),
    ("VAE", lambda found: found.codec),
    ("working memory", lambda found: found.working),
    ("shared cache workspace", lambda found: found.workspace),
    ("cache, per session", lambda found: found.cache),
    ("VAE state, per session", lambda found: found.codec_state),
)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that were created while it is active and still exist; ``peak`` is the maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given | self._held:
                self._hold(leaf.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        name, size = id(storage), storage.nbytes()
        self._held.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, name, size)

    def _free(self, name: int, size: int) -> None:
        self._held.discard(name)
        self.now -= size


def plan(
    spec: ModelSpec,
    cache: CacheConfig,
    dtype: torch.dtype,
    device: str = "cuda",
    text_placement: str = "device",
    devices: int = 1,
    codec: str | None = None,
) -> MemoryPlan:
    """The memory plan for sessions of ``spec`` with ``cache``, in ``dtype`` on a kind of device; in a group of
    ``devices``, for the first, which has the most: see ``of_another``. ``codec`` is a codec's name, None the spec's
    own. Raises MissingExtra."""
    with torch.device("meta"), torch.inference_mode():
        dit, text, vae = CausalDiT(spec), build(spec.text_encoder, spec), build(codec or spec.video_codec, spec)
        dit.to(dtype)
        vae.to(device="meta", dtype=dtype)
        dit.group = CountedGroup(devices) if devices > 1 else ALONE
        cached = OverFullCache(spec, cache, dtype, device, dit.group)
        # chunks that a new prompt rewrites
        most = max(1, min(spec.recache_chunks, cached.slots // spec.tokens_per_chunk))
        passing = max(peak_of(partial(one_pass, dit, spec, cached, chunks)) for chunks in (1, most))
        latents = torch.empty(1, *_latent_shape(spec), dtype=dtype)
        decode = cast("VideoCodec", vae).decode
        state = decode(latents, None)[1]  # the first chunk makes fewer pictures than the others
        for _ in range(2):  # chunks of one latent frame fill the codec's state in turn
            state = decode(latents, state)[1]
        decoding = peak_of(lambda: decode(latents, state))
    size, stays = weight_bytes(text, dtype), text_placement == "device" or device == "cpu"
    return MemoryPlan(
        where=device,
        transformer=weight_bytes(dit, dtype),
        text=size if stays else 0,
        visit=size if text_placement == "offload" and not stays else 0,
        codec=weight_bytes(vae, dtype),
        passing=passing,
        decoding=decoding,
        codec_state=sum(tensor.nbytes for tensor in state),
        devices=devices,
        **cache_bytes(spec, cache, dtype, devices, device),
    )


def of_another(found: MemoryPlan) -> MemoryPlan:
    """The plan of any other device of the group, which has no text encoder and no VAE."""
    return replace(found, text=0, visit=0, codec=0, decoding=0, codec_state=0)


def cache_bytes(
    spec: ModelSpec, cache: CacheConfig, dtype: torch.dtype, devices: int = 1, device: str = "cuda"
) -> dict[str, Any]:
    """Bytes of the workspace and of one session's cache, on each device of a group; on a CPU with those of host
    memory."""
    name, heads = str(dtype).removeprefix("torch."), spec.num_heads // devices
    workspace = workspace_bytes(
        layers=spec.num_layers,
        heads=heads,
        head_dim=spec.head_dim,
        budget=cache.most_seen(spec.tokens_per_latent, spec.num_layers),
        chunk=spec.tokens_per_chunk,
        dtype=name,
    )
    promised = cache.promised_bytes(
        layers=spec.num_layers,
        heads=heads,
        head_dim=spec.head_dim,
        tokens_per_latent=spec.tokens_per_latent,
        tokens_per_chunk=spec.tokens_per_chunk,
        dtype=name,
    )
    if device == "cpu":
        promised += cache.host_bytes(
            layers=spec.num_layers,
            heads=heads,
            head_dim=spec.head_dim,
            tokens_per_latent=spec.tokens_per_latent,
            dtype=name,
        )
    return {"workspace": workspace, "cache": promised}


def weight_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of a module's weights in ``dtype``; shared weights count once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    sizes = (dtype.itemsize if tensor.is_floating_point() else tensor.element_size() for tensor in tensors.values())
    return sum(tensor.numel() * size for tensor, size in zip(tensors.values(), sizes, strict=True))


def peak_of(work: Callable[[], object]) -> int:
    """Peak bytes of the tensors that ``work`` creates."""
    counted = LiveBytes()
    with counted:
        work()
    return counted.peak


def _latent_shape(spec: ModelSpec) -> tuple[int, int, int, int]:
    return spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width


def one_pass(dit: CausalDiT, spec: ModelSpec, cached: OverFullCache, chunks: int) -> None:
    """Peak bytes of one pass of a chunk over a full cache, or of rewriting several chunks
    (model.transformer.attention.Rewriting)."""
    frames, (_, *latent) = chunks * spec.chunk_latents, _latent_shape(spec)
    context = dit.encode_context(torch.empty(1, 1, spec.text_len, spec.text_dim))
    control = torch.empty(1, frames, spec.control_dim) if spec.control_dim else None
    dit(torch.empty(1, frames, *latent), torch.empty(1, frames), context, cached, control)


class OverFullCache:
    """The arithmetic of ``model.transformer.attention.Cached`` over a full cache that is not allocated; several chunks
    run in turn."""

    def __init__(
        self, spec: ModelSpec, cache: CacheConfig, dtype: torch.dtype, device: str, group: Group = ALONE
    ) -> None:
        self._group = group
        self.slots = tokens = cache.most_seen(spec.tokens_per_latent, spec.num_layers) + spec.tokens_per_chunk
        self._chunk = spec.tokens_per_chunk
        self._by_hand = device == "cpu" and dtype == torch.bfloat16  # see attend
        self._rotation = rope.angles(torch.empty(1, tokens, 3), spec.rope_split, spec.rope_theta)
        # the cache's slots, which are counted elsewhere
        self._slots = torch.empty(1, tokens, spec.num_heads // group.size, spec.head_dim, dtype=dtype)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        chunks = zip(*(each.split(self._chunk // self._group.size, 1) for each in (q, k, v)), strict=True)
        seen = [self._group.to_tokens(self._attend(*self._group.to_heads(*chunk))) for chunk in chunks]
        return torch.cat(seen, 1) if len(seen) > 1 else seen[0]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cos, sin = self._rotation
        q = rope.apply(q, cos[:, -self._chunk :], sin[:, -self._chunk :])
        keys = rope.apply(self._slots, cos, sin)
        if self._by_hand:
            return attend_plainly(*(each.transpose(1, 2) for each in (q, keys, self._slots))).transpose(1, 2)
        return torch.empty_like(q)  # fused kernels hold little more than their output


def table(plans: dict[str, MemoryPlan], fits: dict[str, str]) -> list[tuple[str, ...]]:
    """Text rows: memory by purpose, one column per plan of ``plans``, and after them what ``fits`` where."""
    rows = [("", *plans)]
    for name, size in PARTS:
        rows.append((name, *(_size(size(found)) for found in plans.values())))
    visits = [_size(found.visit) if found.visit else "" for found in plans.values()]
    if any(visits):
        rows.insert(3, ("text encoder, while it encodes", *visits))
    return rows + list(fits.items())


def fitting(found: MemoryPlan, spec: ModelSpec, cache: CacheConfig, dtype: torch.dtype, room: int) -> str:
    """How many sessions fit into ``room`` bytes; if none does, which settings would make one fit."""
    if fit := found.sessions(room):
        return f"{fit} session{'' if fit == 1 else 's'}"
    flags, easier = "", found
    if found.visit or (found.text and found.where != "cpu"):
        flags, easier = " --text-placement cpu", replace(found, visit=0, text=0)
    for budget in (None, *(each for each in EASIER_BUDGETS if each < cache.budget_latents)):
        if budget is not None:
            recent = min(budget, cache.recent_latents)
            smaller = replace(cache, budget_latents=budget, sink_latents=0.0, recent_latents=recent)
            easier = replace(easier, **cache_bytes(spec, smaller, dtype, found.devices, found.where))
        more = flags if budget is None else f"{flags} --cache-budget-latents {budget:g}"
        if more and (fit := easier.sessions(room)):
            return f"does not fit; {fit} would with{more}"
    return "does not fit"


def _size(size: int) -> str:
    """In MiB where GiB would show too few digits to compare."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.2f} MiB" if size else "0"
