"""A small patch discriminator, which makes a decoder produce detail where a pixel loss alone would give a mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CRITIC_WEIGHT = 0.25  # of the reconstruction's gradient at the decoder's last layer


class Critic(nn.Module):
    """Scores every patch: high for a picture of the world, low for a decoded one."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 48, 96, 160)
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.layers(pictures)
        return out


def critic_loss(drawn_score: Tensor, true_score: Tensor) -> Tensor:
    """The hinge loss that trains the critic."""
    return F.relu(1 + drawn_score).mean() + F.relu(1 - true_score).mean()


def critic_weight(pixels: Tensor, opinion: Tensor, last: Tensor) -> Tensor:
    """The weight that scales the critic's gradient at the decoder's ``last`` weights to CRITIC_WEIGHT of the gradient
    of the loss on ``pixels``, as in VQGAN (2012.09841)."""
    ours = torch.autograd.grad(pixels, last, retain_graph=True)[0].norm()
    theirs = torch.autograd.grad(opinion, last, retain_graph=True)[0].norm()
    weight: Tensor = CRITIC_WEIGHT * ours / (theirs + 1e-6)
    return weight.clamp(max=10).detach()
