"""Which known word a misspelled one probably means. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 3  # letters; shorter words are never taken for misspelled ones
SHORT = 6  # letters; up to this length one slip is allowed, in longer words two


def nearest(word: str, ranks: Mapping[str, int]) -> str | None:
    """The word with the fewest slips from ``word``, of several one with the same letters, then the one of lower
    rank; None if none is near.

    People rarely mistype a word's first letter, so it must be the same, be missing, or be swapped with the second.
    """
    if len(word) < LEAST:
        return None
    allowed = 1 if len(word) <= SHORT else 2
    near = {
        known: (slips, sorted(known) != sorted(word), rank, known)
        for known, rank in ranks.items()
        if len(known) >= LEAST and abs(len(known) - len(word)) <= allowed and _begins_alike(word, known)
        if (slips := distance(word, known)) <= allowed
    }
    return min(near, key=near.__getitem__, default=None)


def _begins_alike(word: str, known: str) -> bool:
    return word[0] == known[0] or word[0] == known[1] or word[1] == known[0]


def distance(a: str, b: str) -> int:
    """Optimal string alignment: letters to insert, drop, replace, or swap with their neighbor to get ``b`` from
    ``a``."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]
