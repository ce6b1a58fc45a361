"""Small checkpoints with random numbers in all public layouts, for tests."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.spec import TEST_WAN
from model.weights import LoadedModel, random_model

Tensors = dict[str, Tensor]


def small_wan(seed: int = 3) -> LoadedModel:
    return random_model(TEST_WAN, seed=seed, dtype=torch.float32)


def owned(tensors: Tensors) -> Tensors:
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def diffusers_dit(tensors: Tensors) -> Tensors:
    """Renamed as by diffusers' own converter."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return dict(convert_wan_transformer_to_diffusers(dict(tensors)))


def wan_text(tensors: Tensors) -> Tensors:
    """transformers' names renamed back to those of Wan's t5.py."""
    names = (
        (r"^shared\.", "token_embedding."),
        (r"^encoder\.final_layer_norm\.", "norm."),
        (r"^encoder\.block\.(\d+)\.", r"blocks.\1."),
        (r"\.layer\.0\.layer_norm\.", ".norm1."),
        (r"\.layer\.1\.layer_norm\.", ".norm2."),
        (r"\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".pos_embedding.embedding."),
        (r"\.layer\.0\.SelfAttention\.", ".attn."),
        (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".ffn.gate.0."),
        (r"\.layer\.1\.DenseReluDense\.wi_1\.", ".ffn.fc1."),
        (r"\.layer\.1\.DenseReluDense\.wo\.", ".ffn.fc2."),
    )
    renamed = {}
    for name, tensor in tensors.items():
        if name != "encoder.embed_tokens.weight":
            for pattern, theirs in names:
                name = re.sub(pattern, theirs, name)
            renamed[name] = tensor
    return renamed


def write(folder: Path, model: LoadedModel, **changed: Tensors) -> Path:
    """A folder in diffusers' layout; ``changed`` replaces a part's tensors."""
    parts = {
        "transformer": ("diffusion_pytorch_model", model.dit.state_dict()),
        "text_encoder": ("model", model.text.encoder.state_dict()),  # type: ignore[attr-defined]
        "vae": ("diffusion_pytorch_model", model.vae.vae.state_dict()),  # type: ignore[attr-defined]
    }
    for part, (name, tensors) in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        tensors = owned(changed.get(part, tensors))
        tensors.pop("encoder.embed_tokens.weight", None)
        save_file(tensors, folder / part / f"{name}.safetensors")
    return folder


def same_parts(one: LoadedModel, other: LoadedModel) -> bool:
    return all(
        torch.equal(mine, theirs)
        for part in ("dit", "text", "vae")
        for (_, mine), (_, theirs) in zip(
            getattr(one, part).state_dict().items(), getattr(other, part).state_dict().items(), strict=True
        )
    )
