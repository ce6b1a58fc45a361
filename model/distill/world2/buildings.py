"""Painters of buildings and other built things. Each takes a brush whose foot is (0, 0) and the drawing's index."""

from __future__ import annotations

import numpy as np

from model.distill.world2.brush import DARK_WOOD, IRON, STONE, WARM, WOOD, Brush, mix, shade

CREAM = (250, 246, 236)


def house(b: Brush, frame: int) -> None:
    wide, storey = 33, 40 + 6 * int(b.rng.integers(0, 2))
    b.rect(-wide - 1, 0, wide + 1, 4, STONE)
    b.bricks(-wide, 3, wide, storey, b.colour, 0.22)
    b.rect(14, storey + 8, 23, storey + 38, shade((176, 110, 92), 0.95))
    b.rect(12.5, storey + 35, 24.5, storey + 39, shade((176, 110, 92), 0.75))
    b.tiles([(-wide - 7, storey), (wide + 7, storey), (18, storey + 36), (-18, storey + 36)], b.accent)
    b.rect(-wide - 7, storey - 2, wide + 7, storey + 0.5, shade(b.accent, 0.66))
    side = int(b.rng.choice((-1, 1)))
    b.door(side * 3, 14, 25, mix(WOOD, b.accent, 0.25), bool(b.rng.integers(2)))
    for x in (-21, 21):
        b.window(x, 15, 10, 13)
        b.rect(x - 7, 10, x + 7, 13, DARK_WOOD)
        for flower in (-5, -1, 3):
            b.oval(x + flower + 1, 13.5, 2.2, 2, ((226, 92, 100), (250, 214, 110), (240, 240, 240))[flower % 3])


def tower(b: Brush, frame: int) -> None:
    b.poly([(-18, 0), (18, 0), (14, 88), (-14, 88)], b.colour)
    for row, y in enumerate(range(3, 84, 5)):
        half = 18 - 4 * y / 88
        for x in np.arange(-half + 1 + 4 * (row % 2), half - 7, 8).tolist():
            if b.rng.random() < 0.35:
                b.rect(x, y, x + 6.6, y + 3.6, shade(b.colour, float(b.rng.choice((0.84, 0.91, 1.05)))))
    b.bricks(-20, 84, 20, 96, shade(b.colour, 0.96), 0.4)
    for x in np.arange(-20, 20, 8.3).tolist():
        b.rect(x, 95, x + 5, 101, shade(b.colour, 0.96))
    b.tiles([(-17, 97), (17, 97), (0.6, 124), (-0.6, 124)], b.accent)
    b.window(0, 60, 8, 14)
    b.window(0, 30, 8, 14)
    b.door(0, 12, 18, DARK_WOOD, True)


def mill(b: Brush, frame: int) -> None:
    b.poly([(-27, 0), (27, 0), (17, 62), (-17, 62)], b.colour)
    for y in np.arange(6, 60, 6).tolist():
        half = 27 - 10 * y / 62
        b.line([(-half, y), (half, y)], 0.9, shade(b.colour, 0.86))
    b.rect(-29, 26, 29, 29, DARK_WOOD)
    for x in np.arange(-28, 29, 7).tolist():
        b.rect(x, 29, x + 1.2, 36, DARK_WOOD)
    b.rect(-29, 35, 29, 36.5, WOOD)
    b.arc(0, 60, 20, 180, 360, b.accent)
    b.poly([(-20, 60), (20, 60), (19, 64), (-19, 64)], shade(b.accent, 0.72))
    for x in (-8, 0, 8):
        b.line([(x * 1.6, 64), (x * 0.8, 78)], 0.9, shade(b.accent, 0.84))
    b.window(0, 42, 8, 10)
    b.door(0, 13, 21, mix(WOOD, b.accent, 0.3), True)


def church(b: Brush, frame: int) -> None:
    b.bricks(-12, 0, 40, 38, b.colour, 0.2)
    b.tiles([(-12, 38), (44, 38), (36, 64), (-12, 64)], b.accent)
    b.bricks(-36, 0, -10, 74, shade(b.colour, 0.97), 0.2)
    b.tiles([(-39, 74), (-7, 74), (-22.4, 114), (-23.6, 114)], b.accent)
    b.rect(-23.7, 112, -22.3, 125, WARM)
    b.rect(-26.5, 118, -19.5, 119.6, WARM)
    b.oval(-23, 62, 6.5, 6.5, CREAM)
    b.line([(-23, 62), (-23, 66.5)], 1.2, IRON)
    b.line([(-23, 62), (-20, 62)], 1.2, IRON)
    for x in (2, 17, 32):
        b.lit([(x - 4, 10), (x + 4, 10), (x + 4, 22), (x, 29), (x - 4, 22)], (96, 108, 156))
        b.line([(x, 10), (x, 27)], 0.8, CREAM)
    b.lit([(-26, 36), (-20, 36), (-20, 46), (-23, 51), (-26, 46)], (96, 108, 156))
    b.door(-23, 13, 24, DARK_WOOD, True)


def barn(b: Brush, frame: int) -> None:
    b.planks(-42, 0, 42, 38, b.colour, 5.5)
    b.poly([(-42, 38), (42, 38), (28, 60), (0, 72), (-28, 60)], shade(b.colour, 0.97))
    for x in np.arange(-33, 34, 5.5).tolist():
        b.line([(x, 38), (x, 68 - abs(x) * 0.6)], 0.9, shade(b.colour, 0.82))
    edge = [(-48.0, 34.0), (-31.0, 62.0), (0.0, 75.0), (31.0, 62.0), (48.0, 34.0)]
    b.line(edge, 6.5, b.accent)
    b.line([(x, y - 3.4) for x, y in edge], 1.2, shade(b.accent, 0.62))
    b.rect(-15, 0, 15, 29, CREAM)
    b.rect(-13, 0, 13, 27, shade(b.colour, 0.72))
    for x in (-13, 0.5):
        b.line([(x, 0), (x + 12.5, 27)], 1.8, CREAM)
        b.line([(x, 27), (x + 12.5, 0)], 1.8, CREAM)
    b.rect(-0.9, 0, 0.9, 27, CREAM)
    b.window(0, 44, 12, 11)
    for x in (-29, 29):
        b.window(x, 16, 9, 10)


def lighthouse(b: Brush, frame: int) -> None:
    b.oval(0, 2, 23, 7, shade(STONE, 0.86))
    b.oval(-12, 3, 9, 6, STONE)
    b.oval(11, 2, 10, 5, shade(STONE, 0.95))
    b.poly([(-15, 3), (15, 3), (9, 98), (-9, 98)], b.colour)
    for low in (22, 60):
        half, top = 15 - 6 * (low - 3) / 95, 15 - 6 * (low + 15) / 95
        b.poly([(-half, low), (half, low), (top, low + 18), (-top, low + 18)], b.accent)
    b.rect(-14, 97, 14, 100, IRON)
    b.rect(-8, 100, 8, 115, shade(CREAM, 0.9))
    b.lit([(-7, 101), (7, 101), (7, 114), (-7, 114)], (236, 226, 178))
    for x in (-14, -9, 8, 13):
        b.rect(x, 100, x + 1, 106, IRON)
    b.rect(-14, 105.5, 14, 106.5, IRON)
    b.rect(-0.6, 100, 0.6, 115, IRON)
    b.arc(0, 114, 11, 180, 360, b.accent)
    b.rect(-0.7, 124, 0.7, 133, IRON)
    b.window(0, 44, 6, 9)
    b.window(0, 84, 5, 8)
    b.door(0, 10, 17, DARK_WOOD, True)


def castle(b: Brush, frame: int) -> None:
    b.bricks(-40, 0, 40, 52, shade(b.colour, 0.94), 0.3)
    for x in np.arange(-40, 38, 10).tolist():
        b.rect(x, 52, x + 6, 58, shade(b.colour, 0.94))
    b.bricks(-17, 30, 17, 80, b.colour, 0.25)
    for x in np.arange(-17, 15, 7.2).tolist():
        b.rect(x, 80, x + 4.6, 85, b.colour)
    b.tiles([(-15, 82), (15, 82), (0.5, 106), (-0.5, 106)], b.accent)
    for side in (-1, 1):
        x = side * 46
        b.bricks(x - 14, 0, x + 14, 68, b.colour, 0.28)
        b.rect(x - 16, 64, x + 16, 70, shade(b.colour, 0.9))
        b.tiles([(x - 18, 70), (x + 18, 70), (x + 0.6, 104), (x - 0.6, 104)], b.accent)
        b.window(x, 42, 6, 12)
    b.window(0, 58, 7, 13)
    b.oval(0, 20, 12, 12, shade(STONE, 0.7))
    b.rect(-12, 0, 12, 20, shade(STONE, 0.7))
    b.oval(0, 19, 9.5, 9.5, (66, 50, 44))
    b.rect(-9.5, 0, 9.5, 19, (66, 50, 44))
    for x in (-6, -2, 2, 6):
        b.line([(x, 0), (x, 26)], 1, IRON)


def bridge(b: Brush, frame: int) -> None:
    b.poly([(-66, 0), (-66, 20), (-30, 34), (30, 34), (66, 20), (66, 0)], b.colour)
    for row, y in enumerate(range(2, 30, 5)):
        for x in np.arange(-62 + 5 * (row % 2), 56, 10).tolist():
            if b.rng.random() < 0.4 and y + 5 < 34 - max(0, abs(x + 4) - 28) * 0.4:
                b.rect(x, y, x + 8, y + 4, shade(b.colour, float(b.rng.choice((0.84, 0.92, 1.05)))))
    for x, r in ((-36, 13), (0, 19), (36, 13)):
        b.arc(x, 0, r + 3, 180, 360, shade(b.colour, 0.78))
        b.arc(x, 0, r, 180, 360, (74, 104, 128))
        b.arc(x, 0, r * 0.98, 250, 360, (88, 122, 148))
    b.line([(-67, 22), (-30, 36), (30, 36), (67, 22)], 4, shade(b.colour, 0.86))
    for x in range(-60, 61, 12):
        foot = 37 - max(0, abs(x) - 30) * 0.38
        b.rect(x - 1.5, foot - 1, x + 1.5, foot + 9, shade(b.colour, 0.94))
    b.line([(-66, 31), (-30, 46), (30, 46), (66, 31)], 2.4, b.colour)


def lamp(b: Brush, frame: int) -> None:
    b.rect(-5, 0, 5, 4, shade(b.colour, 0.8))
    b.rect(-3, 4, 3, 9, shade(b.colour, 0.9))
    b.rect(-1.7, 8, 1.7, 58, b.colour)
    b.rect(-4, 30, 4, 32, shade(b.colour, 0.8))
    b.rect(-7, 55, 7, 57.5, shade(b.colour, 0.85))
    b.lit([(-4.5, 57.5), (4.5, 57.5), (7, 70), (-7, 70)], (250, 240, 206))
    b.line([(0, 57), (0, 70)], 0.8, b.colour)
    b.poly([(-9, 70), (9, 70), (0, 77)], b.accent)


def fence(b: Brush, frame: int) -> None:
    for y in (7, 17):
        b.rect(-47, y, 47, y + 3.4, shade(b.colour, 0.86))
    for i, x in enumerate(np.arange(-46, 44, 9.6)):
        tone = shade(b.colour, 1.0 - 0.05 * (i % 3))
        b.poly([(x, 0), (x + 5.4, 0), (x + 5.4, 22), (x + 2.7, 26.5), (x, 22)], tone)
        b.line([(x + 1.8, 1), (x + 1.8, 20)], 0.6, shade(tone, 0.86))


def well(b: Brush, frame: int) -> None:
    b.bricks(-18, 0, 18, 20, b.colour, 0.55)
    b.oval(0, 20, 20, 4.2, shade(b.colour, 1.05))
    b.oval(0, 20, 15, 2.8, (48, 60, 80))
    for x in (-15, 12):
        b.rect(x, 19, x + 3, 42, WOOD)
    b.rect(-15, 32, 15, 34.4, DARK_WOOD)
    b.line([(0, 33), (0, 26)], 0.9, CREAM)
    b.poly([(-4, 26), (4, 26), (3, 19), (-3, 19)], DARK_WOOD)
    b.tiles([(-22, 39), (22, 39), (9, 54), (-9, 54)], b.accent)


def tent(b: Brush, frame: int) -> None:
    b.poly([(-35, 0), (35, 0), (0, 50)], b.colour)
    for low, high in ((-35, -22), (-10, 2), (13, 25)):
        b.poly([(low, 0), (high, 0), (0, 50)], b.accent)
    b.poly([(-8, 0), (9, 0), (0, 32)], (60, 48, 52))
    b.lit([(-6, 0), (7, 0), (0, 26)], (74, 60, 62))
    b.poly([(-8, 0), (-14, 0), (0, 34)], shade(b.colour, 0.84))
    b.rect(-0.8, 48, 0.8, 56, DARK_WOOD)
    b.line([(-35, 0), (-40, -2)], 0.9, DARK_WOOD)
    b.line([(35, 0), (40, -2)], 0.9, DARK_WOOD)


def statue(b: Brush, frame: int) -> None:
    c = b.colour
    b.rect(-18, 0, 18, 5, shade(STONE, 0.84))
    b.rect(-15, 5, 15, 10, shade(STONE, 0.94))
    b.bricks(-12, 10, 12, 28, STONE, 0.3)
    b.rect(-14, 27, 14, 30, shade(STONE, 1.06))
    b.poly([(-8, 30), (8, 30), (6, 54), (-6, 54)], c)
    b.poly([(-8, 30), (-1, 30), (-3, 52), (-6, 52)], shade(c, 0.84))
    b.oval(0, 54, 8, 5, c)
    b.oval(0, 64, 5, 6, shade(c, 1.04))
    b.line([(6, 54), (13, 66)], 3.6, c)
    b.oval(14, 69, 3, 3, WARM)
    b.line([(-6, 54), (-10, 42), (-4, 38)], 3.4, shade(c, 0.9))


def boat(b: Brush, frame: int) -> None:
    b.poly([(-34, 13), (36, 13), (27, 0), (-26, 0)], b.colour)
    b.line([(-34, 12.5), (36, 12.5)], 3, shade(b.colour, 0.72))
    b.line([(-30, 7), (31, 7)], 1, shade(b.colour, 0.84))
    b.poly([(-27, 2), (28, 2), (27, 0), (-26, 0)], shade(b.colour, 0.6))
    b.rect(-1.2, 13, 1.2, 72, DARK_WOOD)
    b.poly([(3, 18), (30, 20), (3, 68)], b.accent)
    for y in (28, 38, 48):
        b.line([(3, y), (30 - (y - 20) * 0.56, y + 0.4)], 0.7, shade(b.accent, 0.86))
    b.poly([(-3, 20), (-22, 20), (-3, 58)], mix(b.accent, CREAM, 0.35))
    b.poly([(-1, 72), (-9, 69.5), (-1, 67)], b.colour)


def balloon(b: Brush, frame: int) -> None:
    b.line([(-7, 13), (-13, 34)], 0.8, DARK_WOOD)
    b.line([(7, 13), (13, 34)], 0.8, DARK_WOOD)
    b.poly([(-12, 32), (12, 32), (25, 50), (-25, 50)], b.colour)
    b.oval(0, 57, 28, 28, b.colour)
    for share, fill in ((0.68, b.accent), (0.3, b.colour)):
        b.oval(0, 57, 28 * share, 28, fill)
        b.poly([(-12 * share, 32), (12 * share, 32), (25 * share, 46), (-25 * share, 46)], fill)
    b.oval(0, 57, 28 * 0.1, 28, b.accent)
    b.rect(-12, 31, 12, 34, shade(b.colour, 0.78))
    b.planks(-8, 1, 8, 12, WOOD, 3)
    b.rect(-9, 11, 9, 13.5, DARK_WOOD)


BUILDINGS = {
    painter.__name__: painter
    for painter in (
        *(house, tower, mill, church, barn, lighthouse, castle, bridge, lamp, fence, well, tent, statue, boat),
        balloon,
    )
}
