"""Public layouts of weights, recognized by tensor names, with their mapping to our names.

Transformer: Wan's names (also ours), diffusers', and training dumps that add prefixes to either. Text encoder: Wan's
and transformers'. VAE: Wan's, diffusers', and TAEHV's tiny one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

TRAINED = ("generator_ema", "generator", "model")  # parts of a training dump; the first that exists is served
WRAPPERS = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
PREFIXES = re.compile(r"^(?:module|model\.diffusion_model|diffusion_model|model|net)\.")
LORA = re.compile(r"\.(?:lora_[AB]|lora_(?:down|up))(?:\.[\w-]+)?\.weight$|\.alpha$")
Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


@dataclass(frozen=True)
class Layout:
    """``mark``: a tensor name that only this layout has. ``renames``: patterns, applied in order."""

    part: str  # "dit", "text", "vae" or "tiny_vae"
    name: str
    mark: str
    renames: Renames = ()

    def rename(self, name: str) -> str:
        """Our name of a stored tensor."""
        for pattern, ours in self.renames:
            name = re.sub(pattern, ours, name)
        return name


DIFFUSERS_DIT: Renames = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)
WAN_TEXT: Renames = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.", r"encoder.block.\1."),
    (r"\.norm1\.", ".layer.0.layer_norm."),
    (r"\.norm2\.", ".layer.1.layer_norm."),
    (r"\.attn\.([qkvo])\.", r".layer.0.SelfAttention.\1."),
    (r"\.pos_embedding\.embedding\.", ".layer.0.SelfAttention.relative_attention_bias."),
    (r"\.ffn\.gate\.0\.", ".layer.1.DenseReluDense.wi_0."),
    (r"\.ffn\.fc1\.", ".layer.1.DenseReluDense.wi_1."),
    (r"\.ffn\.fc2\.", ".layer.1.DenseReluDense.wo."),
)
WAN_VAE: Renames = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.downsamples\.", ".down_blocks."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
    # Wan numbers its decoder's steps consecutively: three blocks and an upsampler at each size but the last
    (r"\.upsamples\.(3|7|11)\.", lambda found: f".up_blocks.{int(found[1]) // 4}.upsamplers.0."),
    (r"\.upsamples\.(\d+)\.", lambda found: f".up_blocks.{int(found[1]) // 4}.resnets.{int(found[1]) % 4}."),
)

LAYOUTS = (
    Layout("dit", "Wan2.1", "blocks.0.self_attn.q.weight"),
    Layout("dit", "diffusers", "blocks.0.attn1.to_q.weight", DIFFUSERS_DIT),
    Layout("text", "Wan2.1", "blocks.0.attn.q.weight", WAN_TEXT),
    Layout("text", "transformers", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    Layout("vae", "Wan2.1", "decoder.upsamples.0.residual.2.weight", WAN_VAE),
    Layout("vae", "diffusers", "decoder.up_blocks.0.resnets.0.conv1.weight"),
    Layout("tiny_vae", "TAEHV", "decoder.3.conv.0.weight"),
)


@dataclass(frozen=True)
class Recognised:
    """``names``: our name -> stored name."""

    layout: Layout
    names: dict[str, str]


def recognise(stored: Iterable[str]) -> Recognised | None:
    """The layout of these tensors, or None if they belong to no part of this family."""
    bare = unwrapped(stored)
    for layout in LAYOUTS:
        if (prefix := _before(layout.mark, bare)) is not None:
            return Recognised(layout, {layout.rename(name.removeprefix(prefix)): there for name, there in bare.items()})
    return None


def _before(mark: str, names: Iterable[str]) -> str | None:
    """The prefix of all ``names`` before a layout's own, such as "taehv."; None if ``mark`` is not there."""
    for name in names:
        if name == mark or name.endswith(f".{mark}"):
            prefix = name.removesuffix(mark)
            return prefix if all(each.startswith(prefix) for each in names) else None
    return None


def unwrapped(stored: Iterable[str]) -> dict[str, str]:
    """Names without training prefixes -> stored names; of several copies, the one to serve."""
    names = list(stored)
    for part in TRAINED[:2]:
        chosen = [name for name in names if name.startswith(f"{part}.")]
        if chosen:
            return {_bare(name.removeprefix(f"{part}.")): name for name in chosen}
    return {_bare(name): name for name in names}


def _bare(name: str) -> str:
    name = WRAPPERS.sub("", name)
    while PREFIXES.match(name):
        name = PREFIXES.sub("", name)
    return name


def is_lora(stored: Iterable[str]) -> bool:
    """Whether these are the tensors of a LoRA."""
    return any(LORA.search(name) for name in stored)
