"""Wan2.1's VAE through diffusers' AutoencoderKLWan, decoded chunk by chunk with its own feature cache.

A stream's first latent frame makes one picture, every other one four. Each causal convolution keeps the last two frames
of its input, so any division into chunks gives exactly the same pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.parts import Motion, State
from model.spec import ModelSpec

# A state is a list of tensors: other entries of a feature cache become empty tensors with this many dimensions.
NOTHING, REPEAT = 1, 2  # not used yet; the first frame, which is not doubled in time
WORD = "Rep"  # diffusers' marker for REPEAT


def wan_vae(spec: ModelSpec) -> WanVAE:
    """Wan's VAE with fresh weights."""
    return WanVAE(spec)


def wan_vae_tiny(spec: ModelSpec) -> WanVAE:
    """The same with few channels, for tests."""
    return WanVAE(spec, base_dim=4)


class WanVAE(nn.Module):
    """Wan's VAE, with a codec's interface (model.parts.VideoCodec)."""

    mean: Tensor
    std: Tensor
    encodes = True

    def __init__(self, spec: ModelSpec, **config: Any) -> None:
        super().__init__()
        from diffusers import AutoencoderKLWan

        self.vae = AutoencoderKLWan(z_dim=spec.latent_channels, **config)
        self.stretch = spec.temporal_stride
        self._convolutions: int = self.vae._cached_conv_counts["decoder"]
        shape = (1, spec.latent_channels, 1, 1, 1)
        for name in ("mean", "std"):
            # on the CPU even if the weights are built without memory: these are constants, not weights
            values = torch.tensor(getattr(self.vae.config, f"latents_{name}"), device="cpu").view(shape)
            self.register_buffer(name, values, persistent=False)

    def decode(
        self, latents: Tensor, state: State | None = None, motions: Sequence[Motion | None] | None = None
    ) -> tuple[Tensor, State]:
        """See VideoCodec; Wan has no camera motions."""
        frames = latents.transpose(1, 2) * self.std + self.mean
        features = self.vae.post_quant_conv(frames.to(latents.dtype))
        cache = [None] * self._convolutions if state is None else [_word(tensor) for tensor in state]
        pictures = [
            self.vae.decoder(frame, feat_cache=cache, feat_idx=[0], first_chunk=state is None and index == 0)
            for index, frame in enumerate(features.split(1, dim=2))
        ]
        return torch.cat(pictures, 2).transpose(1, 2), [_tensor(held, latents) for held in cache]

    def encode_start(self, picture: Tensor, frames: int) -> Tensor:
        """See VideoCodec: the first latent frame is the picture, the others encode that nothing moves."""
        still = picture[None, :, None].expand(-1, -1, 1 + self.stretch * (frames - 1), -1, -1)
        mode = self.vae.encode(still.to(self.vae.dtype)).latent_dist.mode()
        latents: Tensor = (mode.float() - self.mean) / self.std
        return latents.transpose(1, 2)


def _word(held: Tensor) -> Tensor | str | None:
    if held.numel():
        return held
    return None if held.ndim == NOTHING else WORD


def _tensor(held: Tensor | str | None, like: Tensor) -> Tensor:
    if isinstance(held, Tensor):
        return held
    return like.new_zeros((0,) * (NOTHING if held is None else REPEAT))
