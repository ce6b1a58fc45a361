"""Painters of plants, animals, people and the snowman. Each takes a brush whose foot is (0, 0) and the index (0 to 3)
of the drawing of its idle motion."""

from __future__ import annotations

import numpy as np

from model.distill.world2.brush import DARK_WOOD, IRON, SKIN, WOOD, Brush, Colour, mix, shade

INK = (48, 42, 44)


def tree(b: Brush, frame: int) -> None:
    b.poly([(-7, 0), (8, 0), (4, 20), (4, 46), (-4, 46), (-3.5, 20)], WOOD)
    b.line([(0, 34), (-15, 56)], 3.2, WOOD)
    b.line([(1, 30), (15, 52)], 3, WOOD)
    for x in (-2, 1.5):
        b.line([(x, 2), (x * 0.6, 40)], 0.8, DARK_WOOD)
    lean = float(b.rng.uniform(-3, 3))
    b.leaves(lean - 14, 60, 23, 19, shade(b.colour, 0.93), 34)
    b.leaves(lean + 15, 58, 22, 18, shade(b.colour, 0.86), 34)
    b.leaves(lean, 78, 27, 24, b.colour, 56)


def overhanging(b: Brush, frame: int) -> None:
    """A tree so close that its crown hangs into the picture from above."""
    b.poly([(-8, 0), (9, 0), (4.5, 22), (4, 110), (-4, 110), (-4.5, 22)], WOOD)
    for x in (-2.5, -0.5, 2):
        b.line([(x, 2), (x * 0.8, 100)], 0.9, DARK_WOOD)
    b.line([(1, 78), (22, 100)], 3, WOOD)
    for x, y, r in ((-26, 106, 22), (27, 104, 24), (0, 112, 24)):
        b.leaves(x, y, r, 15, b.colour, 44)


def pine(b: Brush, frame: int) -> None:
    b.rect(-4, 0, 4, 18, WOOD)
    b.rect(0, 0, 4, 18, DARK_WOOD)
    for row, (half, low, high) in enumerate(((28, 12, 46), (24, 32, 66), (19, 52, 86), (13, 72, 112))):
        tone = shade(b.colour, 0.8 + 0.07 * row)
        edge = [(half * (1 - 2 * i / 8), low + (3.5 if i % 2 else 0)) for i in range(9)]
        b.poly([(0, high), *edge], tone)
        b.poly([(0, high), *[(x, y) for x, y in edge if x <= -half * 0.1], (-half * 0.1, low + 4)], shade(tone, 1.12))


def palm(b: Brush, frame: int) -> None:
    xs = [(0.0, 0.0), (3.0, 22.0), (8.0, 46.0), (15.0, 74.0)]
    b.line(xs, 6.5, (158, 122, 84))
    for i in range(12):
        part = i / 12 * 3
        (x0, y0), (x1, y1) = xs[int(part)], xs[int(part) + 1]
        x, y = x0 + (x1 - x0) * (part % 1), y0 + (y1 - y0) * (part % 1)
        b.line([(x - 3, y), (x + 3, y + 1)], 0.9, shade(WOOD, 0.84))
    for rank, angle in enumerate((-38, 218, -12, 192, 16, 164, 44, 136, 68, 112)):
        a, tone = np.deg2rad(angle), shade(b.colour, 0.7 + 0.045 * rank)
        dx, dy = float(np.cos(a)), float(np.sin(a))
        spine = [(15 + 38 * t * dx, 76 + 26 * t * dy + 10 * t - 20 * t * t) for t in np.linspace(0, 1, 6)]
        wide = (1, 5, 6.5, 5.5, 3.5, 0)
        b.poly(
            [
                *((x, y + w * 0.5) for (x, y), w in zip(spine, wide, strict=True)),
                *((x, y - w) for (x, y), w in zip(spine[::-1], wide[::-1], strict=True)),
            ],
            tone,
        )
        b.line(spine, 0.8, shade(tone, 0.78))
    for x in (11, 17, 14):
        b.oval(x, 71 - (x == 14) * 2, 3.2, 3.4, DARK_WOOD)


def cactus(b: Brush, frame: int) -> None:
    def limb(points: list[tuple[float, float]], width: float, tone: float) -> None:
        fill = shade(b.colour, tone)
        b.line(points, width, fill)
        for x, y in (points[0], points[-1]):
            b.oval(x, y, width / 2, width / 2, fill)
        b.line(points, width * 0.12, shade(fill, 1.2))

    limb([(-2, 26), (-14, 27), (-15, 44)], 8, 0.86)
    limb([(2, 20), (14, 22), (15, 36)], 7.5, 0.82)
    limb([(0, 3), (0, 56)], 13, 1.0)
    for x in (-4.0, 4.0):
        b.line([(x, 2), (x, 55)], 0.8, shade(b.colour, 0.76))
    for _ in range(14):
        x, y = float(b.rng.uniform(-5, 5)), float(b.rng.uniform(4, 56))
        b.line([(x, y), (x + 1.6, y + 1)], 0.7, (250, 244, 214))
    b.oval(0, 63, 3.2, 2.6, (240, 120, 150))


def bush(b: Brush, frame: int) -> None:
    b.leaves(-15, 13, 15, 13, shade(b.colour, 0.88), 24)
    b.leaves(15, 12, 15, 12, shade(b.colour, 0.82), 24)
    b.leaves(0, 18, 19, 16, b.colour, 40)
    for _ in range(7):
        x, y = float(b.rng.uniform(-22, 22)), float(b.rng.uniform(6, 28))
        b.oval(x, y, 1.5, 1.5, mix(b.colour, (255, 250, 240), 0.75))


def _legs(b: Brush, xs: tuple[float, ...], height: float, width: float, fill: Colour, step: float = 0) -> None:
    for i, x in enumerate(xs):
        b.rect(
            x - width / 2 + step * (i % 2), 0, x + width / 2 + step * (i % 2), height, shade(fill, 1 - 0.14 * (i % 2))
        )


def sheep(b: Brush, frame: int) -> None:
    dip = (0, 3, 7, 3)[frame]
    _legs(b, (-9, -5, 6, 10), 11, 2.8, INK)
    b.leaves(0, 17, 16, 10, b.colour, 34)
    b.oval(17, 20 - dip, 5.4, 4.6, (70, 62, 62))
    b.oval(14, 23.5 - dip, 3.6, 2.8, b.colour)
    b.oval(13.4, 20 - dip, 2.6, 1.3, (58, 50, 50))
    b.oval(18.6, 21 - dip, 0.9, 0.9, (250, 250, 250))


def cow(b: Brush, frame: int) -> None:
    dip, c = (0, 0, 3, 6)[frame], b.colour
    spot = (70, 54, 50) if c != (70, 54, 50) else INK
    _legs(b, (-16, -11, 10, 15), 14, 4, shade(c, 0.86))
    b.oval(-16, 22, 8, 9, c)
    b.rect(-17, 14, 14, 31, c)
    b.oval(13, 22, 7, 9, c)
    for x, y, rx, ry in ((-9, 26, 5, 4), (6, 22, 5.5, 4.5), (-16, 19, 3, 3.5)):
        b.oval(x, y, rx, ry, spot)
    b.oval(-7, 13.5, 4, 2.6, (240, 172, 172))
    b.line([(-23, 26), (-26, 14 + frame)], 1.4, shade(c, 0.7))
    b.poly([(13, 30), (24, 33 - dip), (28, 24 - dip), (18, 20)], c)
    b.oval(25, 25 - dip, 4.6, 4, (240, 190, 180))
    b.line([(18, 32 - dip), (17, 37 - dip)], 1.6, (236, 226, 200))
    b.line([(22, 33 - dip), (23, 37.5 - dip)], 1.6, (236, 226, 200))
    b.oval(22, 29 - dip, 1, 1.1, INK)


def horse(b: Brush, frame: int) -> None:
    dip, c = (0, 2, 4, 2)[frame], b.colour
    _legs(b, (-17, -12, 9, 14), 20, 3.6, shade(c, 0.84))
    _legs(b, (-17, -12, 9, 14), 3, 4, INK)
    b.oval(-13, 26, 9, 9, c)
    b.rect(-13, 19, 11, 34, c)
    b.oval(11, 27, 8, 9, c)
    b.poly([(6, 33), (17, 26), (26, 44 - dip), (18, 48 - dip)], c)
    b.poly([(18, 49 - dip), (24, 48 - dip), (33, 39 - dip), (30, 35 - dip), (20, 40 - dip)], c)
    b.poly([(19, 49 - dip), (21, 54 - dip), (23, 48 - dip)], c)
    b.line([(18, 50 - dip), (11, 40 - dip), (5, 33)], 4.2, b.accent)
    b.line([(-21, 31), (-26, 24), (-25 + (frame % 2) * 2, 12)], 3.6, b.accent)
    b.oval(25, 44.5 - dip, 1, 1, INK)


def person(b: Brush, frame: int) -> None:
    c, wave = b.colour, (0, 4, 8, 4)[frame]
    b.rect(-5, 1, -1, 17, (72, 78, 104))
    b.rect(1, 1, 5, 17, (60, 66, 92))
    b.rect(-6.5, 0, -0.5, 2.6, DARK_WOOD)
    b.rect(0.5, 0, 6.8, 2.6, DARK_WOOD)
    b.poly([(-8, 12), (8, 12), (6, 32), (-6, 32)], c)
    b.line([(-6, 30), (-10, 22), (-9, 16)], 3.4, shade(c, 0.86))
    b.line([(6, 30), (10.5, 24 + wave), (12, 19 + 2 * wave)], 3.2, shade(c, 0.92))
    b.oval(12, 18 + 2 * wave, 1.8, 1.8, SKIN)
    b.line([(0, 13), (0, 31)], 0.7, shade(c, 0.8))
    b.oval(0, 37, 5.4, 5.8, SKIN)
    b.oval(2.6, 37.4, 0.7, 0.9, INK)
    b.rect(-5.6, 40, 5.6, 45, b.accent)
    b.oval(0, 45, 5.6, 3, b.accent)
    b.line([(-8, 40), (8.6, 40)], 2, shade(b.accent, 0.84))


def cat(b: Brush, frame: int) -> None:
    c, sway = b.colour, (-3, 0, 3, 0)[frame]
    b.line([(-8, 3), (-14, 6), (-14 + sway, 16), (-11 + sway, 20)], 2.8, shade(c, 0.86))
    b.oval(-2, 7, 8.6, 7.4, c)
    b.oval(2.5, 11, 5.5, 8, c)
    b.rect(3, 0, 6, 9, shade(c, 0.94))
    b.rect(-1, 0, 2, 8, c)
    b.oval(4, 20, 6.2, 5.4, c)
    b.poly([(-1.6, 21), (-0.8, 28), (3, 24.5)], c)
    b.poly([(5, 24.5), (8.8, 28), (9.6, 21)], c)
    for x in (2, 6.6):
        b.oval(x, 20.6, 0.9, 1.2, INK)
    b.oval(4.4, 18.4, 0.9, 0.7, (230, 130, 140))
    for y in (9, 12):
        b.line([(-7, y), (-3, y + 0.6)], 1, shade(c, 0.76))


def dog(b: Brush, frame: int) -> None:
    c, wag = b.colour, (0, 3, 6, 3)[frame]
    b.line([(-12, 17), (-18, 20 + wag)], 2.6, c)
    _legs(b, (-10, -6, 7, 10.5), 9, 3, shade(c, 0.9))
    b.oval(-8, 13, 6.4, 6, c)
    b.rect(-8, 7.6, 8, 18.6, c)
    b.oval(8, 13.5, 5.6, 6, c)
    b.oval(12.5, 21.5, 6, 5.4, c)
    b.rect(14, 18, 20, 22, c)
    b.oval(19.6, 20.8, 1.5, 1.3, INK)
    b.oval(8.4, 20, 2.6, 5, shade(c, 0.68))
    b.oval(13.8, 23, 0.9, 1, INK)
    b.line([(7, 16.4), (13.4, 15.6)], 2, (206, 58, 52))


def snowman(b: Brush, frame: int) -> None:
    c = b.colour
    b.oval(0, 13, 16, 14, c)
    b.oval(0, 31, 11.5, 10.5, c)
    b.line([(-10, 33), (-19, 40)], 1.4, DARK_WOOD)
    b.line([(10, 33), (19, 39)], 1.4, DARK_WOOD)
    b.oval(0, 45, 8.2, 7.6, c)
    b.line([(-7, 38.6), (7, 38.6)], 3.6, b.accent)
    b.poly([(3, 38), (7, 38), (8, 28), (4, 28)], shade(b.accent, 0.88))
    b.rect(-10, 50, 10, 52, shade(b.accent, 0.8))
    b.rect(-6, 51, 6, 58.5, b.accent)
    for x in (-2.6, 3.4):
        b.oval(x, 46.6, 1, 1.1, INK)
    b.poly([(0, 45.4), (0, 43.4), (8, 43.6)], (240, 140, 50))
    for y in (34, 28, 18):
        b.oval(0, y, 1.1, 1.1, IRON)


CREATURES = {
    painter.__name__: painter
    for painter in (tree, pine, palm, cactus, bush, sheep, cow, horse, person, cat, dog, snowman)
}
