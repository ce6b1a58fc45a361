"""Memory in the literature's terms: what a video shows of a place when it returns there. Pure functions.

R2M-Bench (2608.27328) measures how much more similar two views of one place are than views of different places as far
apart in time (memory gain, MG), and divides the mean of all videos by that of the similarity of neighbors in time
(dynamic range, DR; the quotient is NMR), so a video that hardly moves gains nothing. MIND compares the way there
with the way back along the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.distill.evaluation import measures

Similarity = Callable[[np.ndarray, np.ndarray], float]
Pair = tuple[int, int]
FAR_SHARE, FAR_LEAST = 0.2, 10  # minimum distance in time of a revisit: share of the video, and pictures
GAP_SHARE, GAP_LEAST = 0.3, 10  # how much the distance of a baseline pair may differ from the revisit's
SHORT_SHARE, SHORT_LEAST, SHORT_FROM = 0.02, 6, 2  # distances of neighbors in time
MOST_PAIRS = 60  # pairs compared per set


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures of one video: revisits, other places as far apart in time, and neighbours in time."""

    revisits: tuple[Pair, ...]
    baseline: tuple[Pair, ...]
    short: tuple[Pair, ...]


def pairs_of(views: Sequence[float], near: float) -> Pairs:
    """R2M-Bench's three sets for pictures seen from ``views``; two views show the same place if they are within
    ``near``.

    Of the earlier views that are far enough in time, a revisit is paired with the nearest one, and among equals with
    the latest.
    """
    count = len(views)
    least = max(FAR_SHARE * count, FAR_LEAST)
    revisits: list[Pair] = []
    for later in range(count):
        earlier = [i for i in range(later) if later - i >= least and abs(views[i] - views[later]) <= near]
        if earlier:
            revisits.append((min(earlier, key=lambda i: (abs(views[i] - views[later]), -i)), later))
    touched = {end for pair in revisits for end in pair}
    gaps = [later - earlier for earlier, later in revisits]
    free = [i for i in range(count) if i not in touched]
    baseline = [
        (i, j)
        for i in free
        for j in free
        if abs(views[i] - views[j]) > near and any(abs(j - i - gap) <= max(GAP_LEAST, GAP_SHARE * gap) for gap in gaps)
        if j > i
    ]
    longest = int(max(SHORT_LEAST, SHORT_SHARE * count))
    short = [(i, j) for i in range(count) for j in range(i + SHORT_FROM, min(count, i + longest + 1))]
    return Pairs(tuple(revisits), tuple(baseline), tuple(short))


def thinned(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """At most MOST_PAIRS of the pairs, evenly spaced."""
    if len(pairs) <= MOST_PAIRS:
        return pairs
    return [pairs[i * len(pairs) // MOST_PAIRS] for i in range(MOST_PAIRS)]


def gains(pictures: np.ndarray, pairs: Pairs, similarity: Similarity) -> tuple[float, float]:
    """(MG, DR) of one video, uint8 (T, H, W, 3), in the unit of the similarity; NaN for an empty set."""
    means = [
        float(np.mean([similarity(pictures[i], pictures[j]) for i, j in thinned(each)])) if each else float("nan")
        for each in (pairs.revisits, pairs.baseline, pairs.short)
    ]
    revisit, baseline, short = means
    return revisit - baseline, short - baseline


def mirrored(pictures: np.ndarray, views: Sequence[float], near: float, similarity: Similarity) -> float:
    """MIND's gsc: mean similarity of the pictures on the way to the farthest view with those of the same places on the
    way back, within ``near``; NaN without a way back."""
    turn = int(np.argmax(views))
    back = range(turn + 1, len(views))
    nearest = [(i, min(back, key=lambda j: abs(views[i] - views[j]))) for i in range(turn + 1)] if back else []
    pairs = thinned([(i, j) for i, j in nearest if abs(views[i] - views[j]) <= near])
    return float(np.mean([similarity(pictures[i], pictures[j]) for i, j in pairs])) if pairs else float("nan")


def ssim(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Structural similarity of two pictures (H, W, 3) uint8, scikit-image's."""
    from skimage.metrics import structural_similarity

    similarity: Callable[..., Any] = structural_similarity  # the library has no types
    return float(similarity(ours, theirs, channel_axis=-1))


SIMILARITIES: dict[str, Similarity] = {"psnr": measures.psnr, "ssim": ssim}
