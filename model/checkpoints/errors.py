"""Errors of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WeightsError(ValueError):
    """Weights are missing, damaged, or belong to another model; the message names the file and the tensor.

    ``part`` is the part at fault if it has its own setting: "weights", "text_encoder", "vae" or "salience_head".
    """

    def __init__(self, message: str, part: str = "weights") -> None:
        super().__init__(message)
        self.part = part


@contextmanager
def of_part(part: str) -> Iterator[None]:
    """Attribute WeightsErrors raised in this block to ``part``."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(str(error), part) from error
