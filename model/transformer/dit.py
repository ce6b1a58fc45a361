"""The diffusion transformer of the Wan2.1 family, with one timestep per latent frame.

Parameter names are Wan's own, so public checkpoints load unchanged. Attention is a strategy passed to ``forward``: the
same weights run bidirectionally, block-causally, or chunk by chunk over a cache. Source: Wan2.1
``wan/modules/model.py`` and Self-Forcing ``causal_model.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cache.group import ALONE, Group
from model.spec import ModelSpec
from model.transformer.attention import Attention, attend
from model.transformer.sampler import FULL_NOISE

BuildProduct = Callable[[Tensor, Tensor], nn.Module]  # weight (out, in) and bias (out,) to a linear layer
Context = list[tuple[Tensor, Tensor]]  # per layer: keys and values of the prompt, each (B, G, text slots, H, D)

LEAST_SIGMA = 0.05  # lower limit of sigma: the clean pass has sigma 0, and its velocity is not used
SCREEN_SCALE = 1.0
GATES = [2, 5]  # indices of the gates among a block's six modulations
WORLD_PEAK, WORLD_GAIN, WORLD_PAIRS = 3.0, 1.5, 2  # of a head in ``_look_at_own_place``: bias, norm weight, pairs


class RMSNorm(nn.Module):
    """Root-mean-square norm over all channels before they are split into heads; sums are float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # The fused kernel accumulates in float32 and needs the weight in x's dtype.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def _norm(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without parameters, in x's dtype (autocast on a GPU would widen it)."""
    return F.layer_norm(x, x.shape[-1:], eps=eps).to(x.dtype)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, F, N, dim) times (1 + scale) plus shift, each (B, F, 1, dim)."""
    return torch.addcmul(shift, x, 1 + scale)


@dataclass(frozen=True)
class Product:
    """A linear layer that is not a module, because its weight belongs to other modules."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class SelfAttention(nn.Module):
    """The projections of self-attention; the attention itself is a strategy (``model.transformer.attention``)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads = spec.num_heads
        self.q = nn.Linear(spec.dim, spec.dim)
        self.k = nn.Linear(spec.dim, spec.dim)
        self.v = nn.Linear(spec.dim, spec.dim)
        self.o = nn.Linear(spec.dim, spec.dim)
        self.norm_q = RMSNorm(spec.dim, spec.eps)
        self.norm_k = RMSNorm(spec.dim, spec.eps)
        self._together: tuple[Callable[[Tensor], Tensor], ...] = ()  # the fused product of q, k and v, if there is one

    @torch.no_grad()
    def fuse(self) -> None:
        """Compute q, k and v in one product. Their parameters become views of its weight, so nothing is stored
        twice."""
        if self.q is None:  # they are one product already
            return
        parts = (self.q, self.k, self.v)
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        for part, rows, row in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
            part.weight, part.bias = nn.Parameter(rows, requires_grad=False), nn.Parameter(row, requires_grad=False)
        self._together = (Product(weight, bias),)

    def replace_products(self, build: BuildProduct) -> None:
        """Use the layers that ``build`` makes of weight and bias for all products; the original weights are freed."""
        parts = (self.q, self.k, self.v)
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        other = cast(Any, self)  # the attributes are no longer linear layers
        other._together = (build(weight, bias),)
        other.o = build(self.o.weight, self.o.bias)
        other.q = other.k = other.v = None

    def _apply(self, fn: Any, recurse: bool = True) -> SelfAttention:
        if self.q is not None:
            self._together = ()  # moved parameters are no longer views of the fused weight
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, dim) -> q, k, v (B, S, H, D); q and k are normed, not rotated."""
        if self._together and (self.q is None or not torch.is_grad_enabled()):
            q, k, v = self._together[0](x).chunk(3, -1)
        else:  # training needs gradients of the separate layers
            q, k, v = self.q(x), self.k(x), self.v(x)
        q, k = self.norm_q(q), self.norm_k(k)
        return q.unflatten(-1, (self.heads, -1)), k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))


class CrossAttention(SelfAttention):
    """Attention of latent frames to their prompt, whose keys and values ``encode`` computes once."""

    def encode(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text (B, G, slots, dim) -> keys, values, each (B, G, slots, H, D)."""
        k = self.norm_k(self.k(text)).unflatten(-1, (self.heads, -1))
        return k, self.v(text).unflatten(-1, (self.heads, -1))

    def replace_products(self, build: BuildProduct) -> None:
        """Replace what every pass computes; keys and values are computed once per prompt."""
        other = cast(Any, self)
        other.q, other.o = build(self.q.weight, self.q.bias), build(self.o.weight, self.o.bias)

    def look(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (B, S, dim); keys, values (B, G, slots, H, D): the g-th run of tokens attends to the g-th prompt."""
        groups = keys.shape[1]
        q = self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1)).unflatten(1, (groups, -1)).flatten(0, 1)
        keys, values = keys.expand(x.shape[0], *keys.shape[1:]), values.expand(x.shape[0], *values.shape[1:])
        out: Tensor = self.o(attend(q, keys.flatten(0, 1), values.flatten(0, 1)).reshape(x.shape))
        return out


class Block(nn.Module):
    """One transformer block: self-attention, cross-attention and feed-forward, modulated by time."""

    halves: tuple[Callable[..., Any], Callable[..., Any]]  # before and after attention

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.eps = spec.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, spec.dim) / spec.dim**0.5)
        self.self_attn = SelfAttention(spec)
        self.norm3 = nn.LayerNorm(spec.dim, spec.eps)
        self.cross_attn = CrossAttention(spec)
        self.ffn = nn.Sequential(
            nn.Linear(spec.dim, spec.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(spec.ffn_dim, spec.dim)
        )

    def replace_products(self, build: BuildProduct) -> None:
        """Use the layers that ``build`` makes of weight and bias for all large products; the original weights are
        freed."""
        self.self_attn.replace_products(build)
        self.cross_attn.replace_products(build)
        for index in (0, 2):
            linear = cast(nn.Linear, self.ffn[index])
            self.ffn[index] = build(linear.weight, linear.bias)

    def forward(
        self, layer: int, x: Tensor, time: Tensor, context: tuple[Tensor, Tensor], attention: Attention
    ) -> Tensor:
        """x (B, F, N, dim), time (B, F, 6, dim) -> (B, F, N, dim)."""
        before, after = self.halves
        out: Tensor = after(self, x, attention(layer, *before(self, x, time)), time, *context)
        return out

    def before(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part before self-attention: x (B, F, N, dim), time (B, F, 6, dim) -> q, k, v (B, F * N, H, D), not
        rotated."""
        shift, scale = (self.modulation[:, :2] + time[:, :, :2]).to(x.dtype).unsqueeze(3).unbind(2)
        return self.self_attn.project(_modulate(_norm(x, self.eps), shift, scale).flatten(1, 2))

    def after(self, x: Tensor, seen: Tensor, time: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The part after self-attention, given its result ``seen`` (B, F * N, H, D) and the prompt's keys and
        values."""
        modulation = (self.modulation[:, 2:] + time[:, :, 2:]).to(x.dtype).unsqueeze(3)
        gate1, shift2, scale2, gate2 = modulation.unbind(2)
        x = torch.addcmul(x, self.self_attn.o(seen.flatten(-2)).view(x.shape), gate1)
        y = self.norm3(x).to(x.dtype).flatten(1, 2)
        x = x + self.cross_attn.look(y, keys, values).view(x.shape)
        y = self.ffn(_modulate(_norm(x, self.eps), shift2, scale2))
        return torch.addcmul(x, y, gate2)


Block.halves = (Block.before, Block.after)  # an instance may have compiled ones instead


class Head(nn.Module):
    """The output layer: norm, modulation and a linear layer."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.eps = spec.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, spec.dim) / spec.dim**0.5)
        self.head = nn.Linear(spec.dim, spec.latent_channels * spec.patch[1] * spec.patch[2])

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, F, N, dim), time (B, F, dim) -> (B, F, N, patch values)."""
        shift, scale = (self.modulation + time.unsqueeze(2)).to(x.dtype).unsqueeze(3).unbind(2)
        out: Tensor = self.head(_modulate(_norm(x, self.eps), shift, scale))
        return out


def sinusoid(timesteps: Tensor, channels: int) -> Tensor:
    """Timesteps (...) -> (..., channels) float32, [cos | sin], frequencies falling from 1 to 1/10000."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    phase = timesteps.double().unsqueeze(-1) * torch.pow(10000, -exponents)
    return torch.cat((phase.cos(), phase.sin()), dim=-1).float()


def velocity_from_clean(x_t: Tensor, x0: Tensor, timesteps: Tensor) -> Tensor:
    """v = (x_t - x0) / s for latents (B, F, C, h, w) and timesteps (B, F). s has a lower limit: near 0, v is
    meaningless."""
    sigma = (timesteps / FULL_NOISE).clamp(min=LEAST_SIGMA).view(*timesteps.shape, 1, 1, 1)
    return (x_t - x0) / sigma.to(x_t.dtype)


class CausalDiT(nn.Module):
    """Predicts the velocity of noisy latents (B, F, C, h, w); each latent frame has its own timestep."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.recomputes = False  # recompute blocks in the backward pass: one block's graph in memory
        self.group: Group = ALONE  # the processes that share a pass
        dim = spec.dim
        self.patch_embedding = nn.Conv3d(spec.latent_channels, dim, kernel_size=spec.patch, stride=spec.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(spec.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(spec.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if spec.control_dim:
            self.control_embedding = nn.Linear(spec.control_dim, dim)
        if spec.screen_embedding:
            # Relative rotations alone cannot tell the sky's row from the ground's while everything is noise.
            self.screen_embedding = nn.Parameter(SCREEN_SCALE * torch.randn(spec.tokens_per_latent, dim))
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_layers))
        self.head = Head(spec)
        self._init_weights()

    def fuse(self) -> None:
        """Compute q, k and v of each block in one product. Only for a model whose weights will not move or change."""
        for block in self.each_block():
            block.self_attn.fuse()

    def each_block(self) -> Iterator[Block]:
        """The blocks in order."""
        return cast("Iterator[Block]", iter(self.blocks))

    def compile_blocks(self) -> None:
        """Compile both halves of a block; all blocks share the kernels."""
        halves = (torch.compile(Block.before, dynamic=False), torch.compile(Block.after, dynamic=False))
        for block in self.each_block():
            block.halves = halves

    def _init_weights(self) -> None:
        """As in Wan, except that the head starts small instead of at zero: a random model needs an output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for sequence in (self.text_embedding, self.time_embedding):
            for module in sequence:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.head.head.weight, std=0.02)
        if self.spec.control_dim:
            nn.init.zeros_(self.control_embedding.weight)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.head.head.weight.dtype

    def encode_context(self, text: Tensor) -> Context:
        """Encoded prompts (B, G, slots, text_dim) to keys and values per layer, computed once per prompt."""
        hidden = self.text_embedding(text.to(self.dtype))
        return [cast(Block, block).cross_attn.encode(hidden) for block in self.blocks]

    def forward(
        self, latents: Tensor, timesteps: Tensor, context: Context, attention: Attention, control: Tensor | None = None
    ) -> Tensor:
        """Velocity (B, F, C, h, w) in the dtype of ``latents`` (B, F, C, h, w).

        timesteps (B, F) in [0, 1000]; control (B, F, control_dim) for specs that have one; context (B|1, G, ...), where
        F is a multiple of G: equal runs of latent frames attend to one prompt each. Raises ValueError for a wrong
        ``control``.
        """
        x, time, modulation = self._embed(latents, timesteps, control)
        for layer, block in enumerate(self.blocks):
            if self.recomputes and torch.is_grad_enabled():
                x = checkpoint(block, layer, x, modulation, context[layer], attention, use_reentrant=False)
            else:
                x = block(layer, x, modulation, context[layer], attention)
        out = self._unpatchify(self.group.all_tokens(self.head(x, time), 2)).to(latents.dtype)
        return out if self.spec.predicts == "velocity" else velocity_from_clean(latents, out, timesteps)

    def write(
        self, latents: Tensor, timesteps: Tensor, context: Context, attention: Attention, control: Tensor | None = None
    ) -> None:
        """A pass for its keys and values alone: it ends when ``attention`` has got those of the last block. Arguments
        as in ``forward``."""
        x, _, modulation = self._embed(latents, timesteps, control)
        *earlier, last = self.each_block()
        for layer, block in enumerate(earlier):
            x = block(layer, x, modulation, context[layer], attention)
        before, _ = last.halves
        attention(len(earlier), *before(last, x, modulation))

    def _embed(self, latents: Tensor, timesteps: Tensor, control: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, F, N, dim) of this process, time (B, F, dim) and modulation (B, F, 6, dim)."""
        x = self._patchify(latents.to(self.dtype))
        if self.spec.screen_embedding:
            x = x + self.screen_embedding
        time = self._embed_time(timesteps, control)
        return self.group.own_tokens(x, 2), time, self.time_projection(time).unflatten(-1, (6, -1))

    def _embed_time(self, timesteps: Tensor, control: Tensor | None) -> Tensor:
        """(B, F) -> (B, F, dim)."""
        time: Tensor = self.time_embedding(sinusoid(timesteps, self.spec.freq_dim).to(self.dtype))
        if (control is None) == bool(self.spec.control_dim):
            wanted = f"control (B, F, {self.spec.control_dim})" if self.spec.control_dim else "no control"
            raise ValueError(f"model {self.spec.name!r} takes {wanted}")
        if control is not None:
            time = time + self.control_embedding(control.to(self.dtype))
        return time

    def _patchify(self, latents: Tensor) -> Tensor:
        """(B, F, C, h, w) -> (B, F, N, dim): the convolution's stride equals its kernel, so it is one matrix
        product."""
        batch, frames, channels = latents.shape[:3]
        _, p, q = self.spec.patch
        x = latents.unflatten(-1, (-1, q)).unflatten(-3, (-1, p))  # B F C rows p columns q
        x = x.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, frames, -1, channels * p * q)
        return F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def _unpatchify(self, values: Tensor) -> Tensor:
        """(B, F, N, p*q*C), channels fastest -> (B, F, C, h, w)."""
        batch, frames = values.shape[:2]
        spec = self.spec
        grid = values.view(batch, frames, spec.token_rows, spec.token_columns, *spec.patch[1:], spec.latent_channels)
        grid = grid.permute(0, 1, 6, 2, 4, 3, 5)
        return grid.reshape(batch, frames, spec.latent_channels, spec.latent_height, spec.latent_width)


@torch.no_grad()
def init_for_learning(model: CausalDiT) -> None:
    """Initialize for a small model that trains in hundreds of steps; Wan's initialization is meant for a long training.

    Gates start open (Wan's start near zero, which leaves every block almost without effect), text and time embeddings
    start at the scale of the other inputs, and half of the heads attend to their own place in the world.
    """
    for embedding in (model.text_embedding, model.time_embedding):
        for module in embedding:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
    open_gates(model)
    for block in model.blocks:
        _look_at_own_place(cast(Block, block).self_attn, model.spec)


@torch.no_grad()
def open_gates(model: CausalDiT) -> None:
    """Let every block contribute fully."""
    for block in model.blocks:
        cast(Block, block).modulation[:, GATES] = 1.0


def _look_at_own_place(attention: SelfAttention, spec: ModelSpec) -> None:
    """Give queries and keys a common direction: a constant bias on the first channel of the fastest height and width
    pairs. The rotation turns it by position, so the product peaks where the relative position is zero. Slower pairs
    rotate too little per token to separate neighbors."""
    time_channels, height_channels, _ = spec.rope_split
    starts = [
        axis + 2 * pair for axis in (time_channels, time_channels + height_channels) for pair in range(WORLD_PAIRS)
    ]
    for projection, norm in ((attention.q, attention.norm_q), (attention.k, attention.norm_k)):
        bias = projection.bias.view(spec.num_heads, spec.head_dim)[: spec.num_heads // 2]
        weight = norm.weight.view(spec.num_heads, spec.head_dim)[: spec.num_heads // 2]
        bias[:, starts] = WORLD_PEAK
        weight[:, starts] = weight[:, [start + 1 for start in starts]] = WORLD_GAIN
