"""Promise: with the same random weights, the transformer equals diffusers' WanTransformer3DModel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from model.spec import ModelSpec
from model.transformer.attention import Bidirectional
from model.transformer.dit import CausalDiT
from model.transformer.positions import grid_positions

RENAMES = (  # ours (Wan's) -> diffusers', in this order: norm2 and norm3 change places
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    (".modulation", ".scale_shift_table"),
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    (".q.", ".to_q."),
    (".k.", ".to_k."),
    (".v.", ".to_v."),
    (".o.", ".to_out.0."),
    (".norm3.", ".norm2."),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
)


def diffusers_name(name: str) -> str:
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    return name


@pytest.fixture
def twin(wan_spec: ModelSpec, seeded_dit: Callable[[ModelSpec], CausalDiT]) -> tuple[CausalDiT, torch.nn.Module]:
    from diffusers import WanTransformer3DModel

    spec = wan_spec
    theirs = WanTransformer3DModel(
        patch_size=spec.patch,
        num_attention_heads=spec.num_heads,
        attention_head_dim=spec.head_dim,
        in_channels=spec.latent_channels,
        out_channels=spec.latent_channels,
        text_dim=spec.text_dim,
        freq_dim=spec.freq_dim,
        ffn_dim=spec.ffn_dim,
        num_layers=spec.num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=spec.eps,
    ).eval()
    ours = seeded_dit(spec)
    theirs.load_state_dict({diffusers_name(name): tensor for name, tensor in ours.state_dict().items()})
    return ours, theirs


@torch.no_grad()
def test_the_same_weights_give_the_same_velocity_as_diffusers(
    twin: tuple[CausalDiT, torch.nn.Module], wan_spec: ModelSpec
) -> None:
    ours, theirs = twin
    spec, frames = wan_spec, 5
    torch.manual_seed(1)
    latents = torch.randn(2, frames, spec.latent_channels, spec.latent_height, spec.latent_width)
    timesteps = torch.tensor([[1000.0, 937.5, 833.25, 625.0, 0.0], [10.0, 20.0, 500.0, 999.0, 1.0]])
    text = torch.randn(2, 1, spec.text_len, spec.text_dim)
    attention = Bidirectional(grid_positions(spec, 0, frames), spec)
    velocity = ours(latents, timesteps, ours.encode_context(text), attention)
    expected = theirs(
        hidden_states=latents.transpose(1, 2),
        timestep=timesteps.repeat_interleave(spec.tokens_per_latent, dim=1),
        encoder_hidden_states=text[:, 0],
        return_dict=False,
    )[0].transpose(1, 2)
    assert expected.std() > 0.1, "the comparison needs an output that is not nearly zero"
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=0)
