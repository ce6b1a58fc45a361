"""Measures of pictures, with confidence intervals. Pure functions; pictures are uint8 (T, H, W, 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its bootstrap interval over n streams."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap(tops: np.ndarray, bottoms: np.ndarray | None = None, seed: int = 0) -> Estimate | None:
    """Mean of ``tops`` (n,), or the ratio of sums tops / bottoms, with a percentile interval over resampled streams.

    None if nothing was counted. A single stream has no interval: low and high are NaN.
    """
    bottoms = np.ones_like(tops, dtype=float) if bottoms is None else bottoms
    if len(tops) == 0 or bottoms.sum() == 0:
        return None
    mean = float(tops.sum() / bottoms.sum())
    if len(tops) == 1:
        return Estimate(mean, float("nan"), float("nan"), 1)
    picked = np.random.default_rng(seed).integers(0, len(tops), (RESAMPLES, len(tops)))
    ratios = tops[picked].sum(1) / np.maximum(bottoms[picked].sum(1), 1e-12)
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), len(tops))


def paired(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], seed: int = 0
) -> Estimate | None:
    """Difference of two ratios over the same streams, each (tops, bottoms), resampled together."""
    (a, b), (c, d) = ours, theirs
    if len(a) != len(c) or len(a) < 2 or b.sum() == 0 or d.sum() == 0:
        return None
    picked = np.random.default_rng(seed).integers(0, len(a), (RESAMPLES, len(a)))
    differences = a[picked].sum(1) / np.maximum(b[picked].sum(1), 1e-12)
    differences = differences - c[picked].sum(1) / np.maximum(d[picked].sum(1), 1e-12)
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(a.sum() / b.sum() - c.sum() / d.sum()), float(low), float(high), len(a))


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """PSNR in decibels, at most 60 (it is infinite for equal pictures)."""
    error = float(((ours.astype(np.float32) - theirs.astype(np.float32)) ** 2).mean())
    return 60.0 if error == 0 else min(60.0, 10 * float(np.log10(255**2 / error)))


def motion(pictures: np.ndarray) -> float:
    """Mean absolute change from picture to picture, in grey levels."""
    steps = pictures.astype(np.int16)
    return float(np.abs(steps[1:] - steps[:-1]).mean())


def colour(pictures: np.ndarray) -> np.ndarray:
    """Mean color and its spread over pixels (6,), in gray levels: shows a drifting stream that washes out or
    saturates."""
    flat = pictures.reshape(-1, 3).astype(np.float32)
    return np.concatenate([flat.mean(0), flat.std(0)])


def sharpness(pictures: np.ndarray) -> float:
    """Mean gradient magnitude in grey levels."""
    grey = pictures.astype(np.float32).mean(-1)
    return float(np.abs(np.diff(grey, axis=1)).mean() + np.abs(np.diff(grey, axis=2)).mean())


def flicker(pictures: np.ndarray) -> float:
    """VBench's temporal flickering: 1 minus the mean change between pictures as a share of 255; 1 for a still
    picture."""
    return 1 - motion(pictures) / 255


def ends_apart(pictures: np.ndarray, measure: Callable[[np.ndarray], float], share: float = 0.15) -> float:
    """Drift as in Helios-Bench: the absolute difference of ``measure`` between the first and the last 15 %."""
    part = max(1, round(share * len(pictures)))
    return abs(measure(pictures[:part]) - measure(pictures[-part:]))
