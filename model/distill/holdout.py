"""Which prompts are kept for judging and never trained on."""

import torch
from torch import Tensor

RESERVED_SHARE = 16  # one prompt in so many is kept for judging


def reserved(ids: Tensor) -> Tensor:
    """Which prompts, symbols (..., slots, symbols), are kept for judging: a checksum decides, so that nothing that says
    the same is ever trained on, in whatever words and from whatever seed. Returns bool (...)."""
    ids = ids.long()
    weights = torch.tensor([pow(31, i + 1, 65_521) for i in range(ids.shape[-2] * ids.shape[-1])])
    return (ids.flatten(-2) * weights).sum(-1) % 65_521 % RESERVED_SHARE == 0
