"""A model that the processes of a group share: each has the transformer, the first one also the text encoder and the
video codec, whose results it tells the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from cache.group import Group
from model.parts import Motion, State, TextEncoder, VideoCodec
from model.spec import ModelSpec
from model.weights import LoadedModel


class SharedText:
    """The text encoder of a group, in its first process."""

    def __init__(self, encoder: TextEncoder, model: LoadedModel, group: Group) -> None:
        self._encoder, self._group = encoder, group
        self._blank = torch.zeros(model.spec.text_len, model.spec.text_dim, dtype=model.dtype, device=model.device)

    def encode(self, prompt: str) -> Tensor:
        """See TextEncoder; the states are in the transformer's dtype."""
        states = self._encoder.encode(prompt).to(self._blank) if self._group.leads else self._blank
        return self._group.agreed([states])[0]


class SharedCodec:
    """The video codec of a group, in its first process; the others get no pictures and keep no state."""

    def __init__(self, codec: VideoCodec, spec: ModelSpec, device: torch.device, group: Group) -> None:
        self._codec, self._group = codec, group
        shape = (spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        self._blank = torch.zeros(1, *shape, device=device)

    @property
    def encodes(self) -> bool:
        """See VideoCodec; only the first process knows."""
        return self._codec.encodes if self._group.leads else True

    def decode(
        self, latents: Tensor, state: State | None = None, motions: Sequence[Motion | None] | None = None
    ) -> tuple[Tensor, State]:
        """See VideoCodec."""
        return self._codec.decode(latents, state, motions) if self._group.leads else (self._blank[:, :0], [])

    def encode_start(self, picture: Tensor, frames: int) -> Tensor:
        """See VideoCodec; every process gets the latents."""
        start = self._codec.encode_start(picture, frames) if self._group.leads else self._blank
        return self._group.agreed([start])[0]


def shared(model: LoadedModel, group: Group) -> LoadedModel:
    """The model, whose passes all processes of ``group`` run together."""
    model.dit.group = group
    text = SharedText(model.text, model, group)
    return dataclasses.replace(model, text=text, vae=SharedCodec(model.vae, model.spec, model.device, group))
