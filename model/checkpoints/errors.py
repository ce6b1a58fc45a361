"""What can be wrong with weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WeightsError(ValueError):
    """Weights that are missing, damaged, or of another model; the message names the file and the tensor.

    ``part``: whose file is at fault: "weights", "text_encoder", "vae" or "salience_head", where it was named apart.
    """

    def __init__(self, message: str, part: str = "weights") -> None:
        super().__init__(message)
        self.part = part


@contextmanager
def of_part(part: str) -> Iterator[None]:
    """What is found wrong in this block is wrong with this part. Raises WeightsError."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(str(error), part) from error
