"""Contact sheets: rows of pictures in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def save_sheet(rows: Sequence[np.ndarray], path: Path) -> None:
    """Write rows of uint8 pictures (N, H, W, 3) as one PNG."""
    gap = 2
    width = max(sum(p.shape[1] + gap for p in row) for row in rows)
    lines = []
    for row in rows:
        line = np.full((row.shape[1] + gap, width, 3), 255, np.uint8)
        for index, picture in enumerate(row):
            left = index * (picture.shape[1] + gap)
            line[: picture.shape[0], left : left + picture.shape[1]] = picture
        lines.append(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines)).save(path)
