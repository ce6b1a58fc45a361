"""LoRAs with PEFT's or kohya's names, merged into the weights while these are read.

Nothing remains at run time: W + alpha / rank * B A. PEFT stores alpha in ``adapter_config.json`` beside the file.
Without it and without ``.alpha`` tensors, alpha equals the rank, as in LongLive's training.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoints.errors import WeightsError
from model.checkpoints.files import Lora, Stored, require_finite
from model.checkpoints.layouts import DIFFUSERS_DIT, LORA, WRAPPERS

WRAPPED = re.compile(r"^(?:generator_lora\.|base_model\.model\.|diffusion_model\.|transformer\.|model\.|lora_unet_)+")
DOWN, UP = (".lora_A", ".lora_down"), (".lora_B", ".lora_up")


@dataclass(frozen=True)
class Change:
    """The LoRA update of one matrix."""

    down: Stored  # (rank, inputs)
    up: Stored  # (outputs, rank)
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        return self.up.shape[0], self.down.shape[1]

    def require_finite(self) -> None:
        """Raise WeightsError if one of the two matrices has a value that is not finite."""
        for half in (self.down, self.up):
            require_finite(half.read(), half.name, half.file)

    def added_to(self, weight: Tensor) -> Tensor:
        """The updated matrix, float32."""
        return torch.addmm(weight.float(), self.up.read().float(), self.down.read().float(), alpha=self.scale)


def changes(loras: Iterable[Lora], expected: dict[str, Tensor]) -> dict[str, list[Change]]:
    """Updates by weight name. Raises WeightsError for a LoRA of another base model."""
    found: dict[str, list[Change]] = {}
    for lora in loras:
        for name, change in _of(lora).items():
            base = expected.get(name)
            if base is None or tuple(base.shape) != change.shape:
                has = "does not have" if base is None else f"has as {tuple(base.shape)}"
                raise WeightsError(
                    f"{lora.file} is a LoRA for another base: it changes {name!r} of shape {change.shape}, which this "
                    f"model {has}; use the base that it was trained on, or move the file away"
                )
            found.setdefault(name, []).append(change)
    return found


def _of(lora: Lora) -> dict[str, Change]:
    halves: dict[str, dict[str, Stored]] = {}
    for name, stored in lora.tensors.items():
        if match := LORA.search(name):
            kind = match[0]
            side = "down" if kind.startswith(DOWN) else "up" if kind.startswith(UP) else "alpha"
            halves.setdefault(_target(name[: match.start()]), {})[side] = stored
        else:
            raise WeightsError(
                f"{lora.file} holds tensor {name!r}, which is no part of a plain LoRA (two matrices and alpha): merge "
                "it into its base with the program that made it, or move the file away"
            )
    usual = _adapter_alpha(lora)
    return {name: _change(lora, name, parts, usual) for name, parts in halves.items()}


def _change(lora: Lora, name: str, parts: dict[str, Stored], usual: float | None) -> Change:
    if not {"down", "up"} <= parts.keys():
        raise WeightsError(f"{lora.file} is damaged: the LoRA of {name!r} has only one of its two matrices")
    down, up = parts["down"], parts["up"]
    rank = down.shape[0]
    if len(down.shape) != 2 or len(up.shape) != 2 or up.shape[1] != rank or not rank:
        raise WeightsError(f"{lora.file}: the two matrices of {name!r} do not fit: {up.shape} and {down.shape}")
    alpha = _alpha(parts["alpha"]) if "alpha" in parts else usual if usual is not None else rank
    return Change(down, up, alpha / rank)


def _alpha(stored: Stored) -> float:
    if math.prod(stored.shape) != 1:
        raise WeightsError(f"{stored.file}: {stored.name!r} must be one number, but has shape {stored.shape}")
    require_finite(stored.read(), stored.name, stored.file)
    return float(stored.read())


def _target(name: str) -> str:
    """Our name of the updated weight."""
    bare = WRAPPED.sub("", WRAPPERS.sub("", name)) + ".weight"
    if ".attn1." in bare or ".attn2." in bare or ".ffn.net." in bare:  # diffusers' names
        for pattern, ours in DIFFUSERS_DIT:
            bare = re.sub(pattern, ours, bare)
    return bare


def _adapter_alpha(lora: Lora) -> float | None:
    file = lora.file.parent / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        return float(json.loads(file.read_text())["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} gives no lora_alpha: {error}") from error
