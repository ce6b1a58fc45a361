"""The report of films: one table, as Markdown and for a terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from model.distill.evaluation.measures import Estimate, bootstrap

COLUMNS = ("policy", "latents", "min", "pictures/s", "peak GiB", "colour drift", "sharpness", "flickering", "motion")
MEASURES = ("colour", "sharpness", "flickering", "motion")
DIGITS = {"colour": 1, "sharpness": 2, "flickering": 4, "motion": 2}


def rows(result: dict[str, Any], intervals: bool = True) -> list[tuple[str, ...]]:
    """One row per cell, followed by columns with VBench's scores."""
    out = []
    for cell in result["cells"]:
        films = cell["films"]
        rate = sum(film["pictures"] for film in films) / sum(film["seconds"] for film in films)
        figures = [
            _shown(bootstrap(np.array([film[name] for film in films])), DIGITS[name], intervals) for name in MEASURES
        ]
        about = (cell["policy"], f"{cell['budget']:g}", f"{cell['minutes']:g}", f"{rate:.1f}")
        scores = [f"{cell['vbench'][name]:.4f}" if name in _scored(cell) else "" for name in _dimensions(result)]
        out.append((*about, f"{cell['peak_bytes'] / 2**30:.1f}", *figures, *scores))
    return out


def markdown(result: dict[str, Any]) -> str:
    """The table, with the model and device."""
    head = (*COLUMNS, *_dimensions(result))
    lines = [f"{result['model']} at {result['size']} on {result['device']}, {result['dtype']}", ""]
    lines += [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows(result))]
    return "\n".join([*lines, "", *notes(result)]) + "\n"


def table(result: dict[str, Any]) -> Table:
    found = Table(*COLUMNS, *_dimensions(result), title=f"{result['model']} at {result['size']}", box=None)
    for row in rows(result, intervals=False):
        found.add_row(*row)
    return found


def notes(result: dict[str, Any]) -> list[str]:
    """Why VBench gave no scores, each reason once."""
    return list(dict.fromkeys(cell["vbench"] for cell in result["cells"] if isinstance(cell["vbench"], str)))


def _scored(cell: dict[str, Any]) -> dict[str, float]:
    return cell["vbench"] if isinstance(cell["vbench"], dict) else {}


def _dimensions(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for cell in result["cells"] for name in _scored(cell)))


def _shown(estimate: Estimate | None, digits: int, intervals: bool) -> str:
    """The mean and, for several films, the 95 % interval."""
    if estimate is None:
        return ""
    interval = f" ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})" if intervals and estimate.n > 1 else ""
    return f"{estimate.mean:.{digits}f}{interval}"
