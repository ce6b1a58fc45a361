"""What can be wrong with weights."""

from __future__ import annotations


class WeightsError(ValueError):
    """Weights that are missing, damaged, or of another model; the message names the file and the tensor."""
