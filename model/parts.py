"""The parts beside the transformer: a text encoder and a video codec, each behind a protocol.

A spec names its parts; tables map the names to builders. A builder imports the heavy libraries that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from model.spec import ModelSpec

M = TypeVar("M", bound=nn.Module)
State = list[Tensor]  # a codec's state between two chunks
Motion = tuple[float, float]  # camera pixels (right, down) since the previous latent frame


class TextEncoder(Protocol):
    """Turns a prompt into the states that the transformer's cross-attention reads."""

    def encode(self, prompt: str) -> Tensor:
        """A prompt to its text states (text_len, text_dim)."""
        ...


class NoEncoder(ValueError):
    """A video cannot start with a picture, because the files of the video codec have only a decoder."""

    def __init__(self) -> None:
        super().__init__(
            "starting with a picture needs the VAE's encoder, and this server's --vae holds the decoder alone: start "
            "without a picture, or serve with a file that holds both"
        )


class VideoCodec(Protocol):
    """Latents to pictures, chunk by chunk, and pictures to latents."""

    @property
    def encodes(self) -> bool:
        """Whether it can encode: some files hold a decoder alone."""
        ...

    def decode(
        self, latents: Tensor, state: State | None = None, motions: Sequence[Motion | None] | None = None
    ) -> tuple[Tensor, State]:
        """Latents (1, F, C, h, w) to pictures (1, T, 3, H, W) in [-1, 1] and the state for the next call.

        The first call of a stream passes no state. The stream's first latent frame makes ``first_latent_pictures``
        pictures, every other one ``temporal_stride``. ``motions`` has the camera's motion per latent frame, None where
        it jumped; without a camera there are no motions.
        """
        ...

    def encode_start(self, picture: Tensor, frames: int) -> Tensor:
        """A still picture (3, H, W) in [-1, 1] to the first ``frames`` latents of a stream: float32 (1, frames, C, h,
        w). Raises NoEncoder."""
        ...


class MissingExtra(ImportError):
    """A model needs packages that are not installed; the message says how to install them."""


BUILDERS = {  # name in a spec -> module and function that builds the part for a spec
    "phrases": "model.words.text:TextEncoder",
    "phrases-2": "model.words.text2:text_encoder",
    "umt5-xxl": "model.wan.text:umt5_xxl",
    "umt5-tiny": "model.wan.text:umt5_tiny",
    "views": "model.codec.vae:StreamingVAE",
    "planes": "model.codec.autoencoder:ViewAutoencoder",
    "wan2.1": "model.wan.vae:wan_vae",
    "wan2.1-tiny": "model.wan.vae:wan_vae_tiny",
    "taew2.1": "model.wan.tiny_vae:TinyVAE",
}


def build(name: str, spec: ModelSpec) -> nn.Module:
    """The part called ``name`` for ``spec``, with fresh weights. Raises MissingExtra."""
    module, _, function = BUILDERS[name].partition(":")
    try:
        builder = cast("Callable[[ModelSpec], nn.Module]", getattr(import_module(module), function))
        return builder(spec)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"model {spec.name!r} needs the package {error.name!r}: install Pafu with pip install 'pafu[wan]'"
        ) from error


def settle(part: M, device: torch.device, dtype: torch.dtype) -> M:
    """Move a part to the device and freeze it; a part with its own ``settle`` method decides itself where it stays."""
    own = getattr(part, "settle", None)
    moved: M = own(device, dtype) if own else part.to(device=device, dtype=dtype)
    return moved.eval().requires_grad_(False)
