"""Finishing touches of landmarks in detailed pictures: shaded sides, tiles, window bars, bark, battlements.

They follow from a landmark's kind, place and colors, so a decoder can learn to paint them from latents that do not show
them. ``u`` is pixels per unit; lengths in units are those of ``world``'s painters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageDraw

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Brush:
    """Paints over a landmark whose foot is at pixel (x, base), in its lit colors."""

    draw: ImageDraw.ImageDraw
    x: int
    base: int
    u: float
    body: Rgb
    accent: Rgb
    trunk: Rgb

    def area(self, corners: list[tuple[float, float]], color: Rgb) -> None:
        """A polygon; corners are (units to the right, units above the foot)."""
        self.draw.polygon([(self.x + a * self.u, self.base - b * self.u) for a, b in corners], fill=color)

    def bar(self, left: float, top: float, right: float, bottom: float, color: Rgb) -> None:
        """A rectangle, in units."""
        self.area([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def disc(self, a: float, b: float, radius: float, color: Rgb) -> None:
        """A circle around (a, b), in units."""
        x, y, r = self.x + a * self.u, self.base - b * self.u, radius * self.u
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=color)


def toned(color: Rgb, factor: float) -> Rgb:
    """Darker below 1; above 1 lighter, towards white, so that white things show it too."""
    if factor <= 1:
        return (round(color[0] * factor), round(color[1] * factor), round(color[2] * factor))
    mix = min(1.0, factor - 1)
    r, g, b = (round(value + (255 - value) * mix) for value in color)
    return r, g, b


def _house(brush: Brush) -> None:
    wall, roof = brush.body, brush.accent
    brush.bar(20, 44, 30, 0, toned(wall, 0.88))
    brush.bar(-30, 44, 30, 41, toned(wall, 0.78))  # the shadow of the eaves
    brush.bar(14, 76, 22, 60, toned(roof, 0.6))  # the chimney
    brush.area([(-38, 44), (0, 80), (38, 44)], roof)
    for row in range(1, 6):
        height, half = 44 + 6 * row, 38 * (1 - row / 6)
        brush.bar(-half, height + 0.7, half, height - 0.7, toned(roof, 0.8))
    brush.area([(38, 44), (0, 80), (6, 80), (42, 44)], toned(roof, 0.7))
    for middle in (-20, 20):
        brush.bar(middle - 1, 34, middle + 1, 22, toned(wall, 0.7))
        brush.bar(middle - 6, 29, middle + 6, 27.4, toned(wall, 0.7))
        brush.bar(middle - 8, 22, middle + 8, 20, toned(wall, 0.75))
    brush.bar(-5, 24, -1, 14, toned(wall, 0.5))
    brush.bar(1, 24, 5, 14, toned(wall, 0.5))
    brush.disc(4, 11, 1.2, (236, 200, 90))


def _tree(brush: Brush) -> None:
    leaves = brush.body
    brush.bar(1, 40, 5, 0, toned(brush.trunk, 0.8))
    for a, b, radius, tone in (
        (8, 52, 19, 0.9),
        (-6, 47, 13, 0.9),
        (15, 66, 12, 0.95),
        (-14, 62, 12, 1.0),
        (-7, 74, 14, 1.14),
        (-10, 78, 8, 1.26),
        (6, 80, 8, 1.14),
        (10, 68, 5, 1.1),
        (-18, 64, 5, 1.14),
    ):
        brush.disc(a, b, radius, toned(leaves, tone))


def _pine(brush: Brush) -> None:
    needles = brush.body
    brush.bar(1, 16, 5, 0, toned(brush.trunk, 0.8))
    for half, low, high in ((30, 14, 56), (24, 40, 80), (17, 64, 102)):
        brush.area([(-half, low), (0, high), (half, low)], needles)
        brush.area([(half * 0.1, low), (0, high), (half, low)], toned(needles, 0.86))
        brush.area([(-half, low), (-half * 0.1, high - 6), (-half * 0.5, low)], toned(needles, 1.12))
        brush.bar(-half * 0.9, low + 2, half * 0.9, low, toned(needles, 0.74))


def _tower(brush: Brush) -> None:
    wall, cap = brush.body, brush.accent
    brush.bar(8, 86, 16, 0, toned(wall, 0.86))
    for row in range(9):
        height = 6 + 9 * row
        for left in (-13 + 5 * (row % 2), 3 + 5 * (row % 2)):
            if not (abs(left + 3) < 9 and 28 < height < 74):
                brush.bar(left, height + 0.6, left + 6, height - 0.6, toned(wall, 0.76))
    brush.bar(12, 104, 22, 86, toned(cap, 0.86))
    brush.bar(-22, 88, 22, 85.5, toned(cap, 0.68))
    for gap in (-15, -3.5, 8, 19.5):
        brush.bar(gap, 104, gap + 2.5, 97, toned(cap, 0.62))
    for level in (70, 44):
        brush.bar(-0.7, level, 0.7, level - 14, toned(wall, 0.6))
        brush.bar(-7, level - 14, 7, level - 16, toned(wall, 0.7))


def _mill(brush: Brush) -> None:
    wall, cap = brush.body, brush.accent
    brush.area([(12, 0), (7, 62), (15, 62), (26, 0)], toned(wall, 0.86))
    for row in range(1, 7):
        height, half = 9 * row, 26 - 11 * 9 * row / 62
        if height > 22:
            brush.bar(-half, height + 0.6, half, height - 0.6, toned(wall, 0.86))
    brush.bar(-4, 46, 4, 34, toned(wall, 0.55))
    brush.bar(-0.6, 46, 0.6, 34, toned(wall, 0.8))
    brush.bar(-5.5, 34, 5.5, 32, toned(wall, 0.72))
    brush.bar(-24, 66.5, 24, 64, toned(cap, 0.7))
    brush.bar(-1, 20, 0.6, 0, toned(wall, 0.5))
    brush.disc(3.6, 9, 1.1, (236, 200, 90))


FINISHERS: dict[str, Callable[[Brush], None]] = {
    "house": _house,
    "tree": _tree,
    "pine": _pine,
    "tower": _tower,
    "mill": _mill,
}
