"""Promise: few-step flow matching as in Self-Forcing."""

from __future__ import annotations

import torch

from model.spec import WAN_1_3B
from model.transformer.sampler import add_noise, denoise


def test_the_ends_of_the_path_are_data_and_noise() -> None:
    x0, noise = torch.randn(2, 2, 3, 4, 3, 3)
    assert torch.equal(add_noise(x0, noise, 0.0), x0)
    assert torch.equal(add_noise(x0, noise, 1000.0), noise)
    torch.testing.assert_close(add_noise(x0, noise, 250.0), 0.75 * x0 + 0.25 * noise)


def test_every_latent_frame_has_its_own_timestep() -> None:
    x0, noise = torch.zeros(1, 3, 2, 2, 2), torch.ones(1, 3, 2, 2, 2)
    mixed = add_noise(x0, noise, torch.tensor([[0.0, 500.0, 1000.0]]))
    assert mixed[0, :, 0, 0, 0].tolist() == [0, 0.5, 1]


def test_a_perfect_velocity_is_followed_to_the_data_at_every_step() -> None:
    data, noise = torch.randn(2, 1, 3, 4, 3, 3)
    asked = []

    def velocity(x_t: torch.Tensor, t: float) -> torch.Tensor:
        asked.append(t)
        return (x_t - data) / (t / 1000)  # v = noise - x0 = (x_t - x0) / s

    result = denoise(velocity, lambda: noise, WAN_1_3B.timesteps)
    torch.testing.assert_close(result, data, atol=1e-5, rtol=0)
    assert [round(t, 1) for t in asked] == [1000.0, 937.5, 833.3, 625.0]


def test_between_steps_fresh_noise_is_drawn() -> None:
    noise, fresh = torch.randn(2, 1, 1, 1, 64, 64)
    seen: list[torch.Tensor] = []

    def velocity(x_t: torch.Tensor, t: float) -> torch.Tensor:
        seen.append(x_t)
        return x_t / (t / 1000)  # predicts x0 = 0: what is left is the re-noising

    draws = iter((noise, fresh))
    denoise(velocity, lambda: next(draws), (1000.0, 500.0))
    torch.testing.assert_close(seen[0], noise)
    torch.testing.assert_close(seen[1], 0.5 * fresh)
