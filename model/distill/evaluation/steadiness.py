"""How well each named color holds while it is in view: ``python -m model.distill.evaluation.steadiness``.

The camera stands still before a tower in one color and a mill whose cap has the same color. Pixels that have the
color after three seconds (within NEAR of what the world paints) are compared with themselves at the end.
"""

from __future__ import annotations

import argparse
import colorsys
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.distill.data.world import RGB
from model.distill.evaluation.evaluate import served_cache
from model.distill.evaluation.sheets import save_sheet
from model.spec import PAFU_MINI
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, load_model
from model.words.vocabulary import COLOURS

SETTLED, TOTAL = 3.0, 24.0  # seconds
NEAR = 45.0  # gray levels, in every channel: hills are farther from green, and the sky from blue
LEAST = 40  # pixels; fewer are not judged
GRAY = 0.15  # saturation below which a color has no hue


@dataclass(frozen=True)
class Drift:
    """Of one color on walls or on a roof: pixels judged, change of hue in degrees (None without a hue) and of the mean
    color in gray levels (None if too few pixels have the color)."""

    colour: str
    part: str
    seed: int
    pixels: int
    hue: float | None
    levels: float | None


def prompt_of(colour: str) -> str:
    """A tower and a mill's cap in ``colour``; the other parts in another color."""
    other = "red" if colour == "white" else "white"
    return (
        f"a meadow by day, a {colour} tower with a {other} roof on the left "
        f"and a {other} mill with a {colour} roof on the right"
    )


def drift(first: np.ndarray, last: np.ndarray, colour: str, part: str, seed: int) -> Drift:
    """``first`` and ``last`` are uint8 pictures (H, W, 3) of one half of the view."""
    there = np.abs(first.astype(float) - RGB[colour]).max(-1) < NEAR
    pixels = int(there.sum())
    if pixels < LEAST:
        return Drift(colour, part, seed, pixels, None, None)
    before, after = (each[there].mean(0) for each in (first, last))
    return Drift(colour, part, seed, pixels, _turned(before, after), float(np.abs(after - before).mean()))


def _turned(before: np.ndarray, after: np.ndarray) -> float | None:
    """Degrees between two hues; None if the first color is nearly gray."""
    (a, saturation, _), (b, _, _) = (colorsys.rgb_to_hsv(*(each / 255)) for each in (before, after))
    return None if saturation < GRAY else 360 * min(abs(a - b), 1 - abs(a - b))


def measured(model: LoadedModel, seeds: list[int], seconds: float, out: Path) -> list[Drift]:
    """All colors with all seeds; writes a contact sheet, one row per stream."""
    spec, found, rows = model.spec, [], []
    half, settled = spec.width // 2, round(SETTLED * spec.fps)
    for seed, colour in track([(s, c) for s in seeds for c in COLOURS], description="colors"):
        stream = VideoStream(model, prompt_of(colour), seed, served_cache(model))
        chunks = round(seconds * spec.fps / (spec.chunk_latents * spec.temporal_stride))
        pictures = np.concatenate([stream.next_chunk().pictures for _ in range(max(chunks, 5))])
        first, last = pictures[settled], pictures[-1]
        found.append(drift(first[:, :half], last[:, :half], colour, "walls", seed))
        found.append(drift(first[:, half:], last[:, half:], colour, "roof", seed))
        rows.append(pictures[np.linspace(settled, len(pictures) - 1, 5).round().astype(int)])
    save_sheet(rows, out / "steadiness.png")
    return found


def table(found: list[Drift]) -> Table:
    """Mean over seeds for every color, on walls and on roofs."""
    shown = Table("color", *(f"{part}: {what}" for part in ("walls", "roof") for what in ("hue", "gray levels")))
    for colour in COLOURS:
        cells = []
        for part in ("walls", "roof"):
            mine = [each for each in found if (each.colour, each.part) == (colour, part)]
            for values in ([each.hue for each in mine], [each.levels for each in mine]):
                known = [value for value in values if value is not None]
                cells.append(f"{np.mean(known):.0f} ({len(known)} of {len(mine)})" if known else "-")
        shown.add_row(colour, *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model.distill.evaluation.steadiness", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/steadiness"), help="folder for JSON and contact sheet")
    parser.add_argument("--seeds", default="71,72", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="length of each stream")
    parser.add_argument("--weights", type=Path, default=None, help="folder with the weights; default: the shipped ones")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    model = load_model(PAFU_MINI, given.weights, dtype=torch.float32)
    found = measured(model, [int(seed) for seed in given.seeds.split(",")], given.seconds, given.out)
    (given.out / "steadiness.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    Console().print(table(found))


if __name__ == "__main__":
    main()
