"""Draws one thing in units at high resolution, then shades it and scales it down to a sprite."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
RGB: dict[str, Colour] = {
    "red": (206, 58, 52),
    "orange": (235, 138, 48),
    "yellow": (244, 206, 78),
    "green": (72, 152, 84),
    "blue": (58, 112, 198),
    "purple": (130, 80, 174),
    "pink": (240, 146, 182),
    "white": (246, 242, 232),
}
WOOD, DARK_WOOD, STONE, IRON, SKIN = (132, 94, 62), (92, 66, 48), (164, 158, 150), (70, 74, 84), (236, 188, 152)
WARM = (255, 220, 128)  # lamp light
SOLID = 128  # alpha from which on a pixel belongs to the thing


def shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, max(0, round(c * factor))) for c in colour)
    return r, g, b


def mix(one: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round(a + (c - a) * share) for a, c in zip(one, other, strict=True))
    return r, g, b


@dataclass(frozen=True)
class Sprite:
    """rgb in neutral light with its mask, and the mask of the parts that glow at night. (left, top): pixels from the
    foot."""

    rgb: Image.Image
    mask: Image.Image
    glow: Image.Image
    left: int
    top: int

    @cached_property
    def solid(self) -> np.ndarray:
        """(h, w) bool: pixels that show the thing and not its background."""
        return np.asarray(self.mask) >= SOLID


class Brush:
    """Units: pixels at size 1, x to the right from the middle of the thing's foot, y upwards."""

    def __init__(self, width: float, height: float, size: float, colour: str, accent: str | None, seed: int) -> None:
        self.fine = 3 if size < 1.25 else 2
        self.k = size * self.fine
        self.half, self.height, self.below = width / 2 + 8, height + 6, 8
        self.pixels = (
            -(-round(2 * self.half * self.k) // self.fine) * self.fine,
            -(-round((self.height + self.below) * self.k) // self.fine) * self.fine,
        )
        self.rng = np.random.default_rng(seed)
        self.colour = RGB[colour]
        self.accent = RGB[accent or colour]
        self.image = Image.new("RGBA", self.pixels, (*self.colour, 0))
        self.glow = Image.new("L", self.pixels, 0)
        self._draw = ImageDraw.Draw(self.image)
        self._glow = ImageDraw.Draw(self.glow)

    def _xy(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [((x + self.half) * self.k, (self.height - y) * self.k) for x, y in points]

    def poly(self, points: list[tuple[float, float]], fill: Colour) -> None:
        points = self._xy(*points)
        self._draw.polygon(points, (*fill, 255))
        self._glow.polygon(points, 0)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        (x0, y0), (x1, y1) = self._xy((x - rx, y + ry), (x + rx, y - ry))
        self._draw.ellipse((x0, y0, x1, y1), (*fill, 255))
        self._glow.ellipse((x0, y0, x1, y1), 0)

    def arc(self, x: float, y: float, r: float, start: float, end: float, fill: Colour) -> None:
        (x0, y0), (x1, y1) = self._xy((x - r, y + r), (x + r, y - r))
        self._draw.pieslice((x0, y0, x1, y1), start, end, (*fill, 255))
        self._glow.pieslice((x0, y0, x1, y1), start, end, 0)

    def line(self, points: list[tuple[float, float]], width: float, fill: Colour) -> None:
        self._draw.line(self._xy(*points), (*fill, 255), max(1, round(width * self.k)), "curve")

    def lit(self, points: list[tuple[float, float]], by_day: Colour = (92, 112, 138)) -> None:
        """A pane that is dark glass by day and glows at night."""
        self.poly(points, by_day)
        self._glow.polygon(self._xy(*points), 255)

    def window(self, x: float, y: float, w: float = 10, h: float = 12, frame: Colour = (250, 246, 236)) -> None:
        """A window with frame, bars, glint and sill; (x, y) is the middle of its lower edge."""
        self.rect(x - w / 2 - 1.5, y - 1, x + w / 2 + 1.5, y + h + 1.5, frame)
        self.lit([(x - w / 2, y), (x + w / 2, y), (x + w / 2, y + h), (x - w / 2, y + h)])
        self._draw.polygon(self._xy((x - w / 2, y + h), (x, y + h), (x - w / 2, y + h / 2)), (150, 176, 200, 255))
        self.line([(x, y), (x, y + h)], 1, frame)
        self.line([(x - w / 2, y + h * 0.5), (x + w / 2, y + h * 0.5)], 1, frame)
        self.rect(x - w / 2 - 2.5, y - 2.5, x + w / 2 + 2.5, y - 0.5, shade(frame, 0.82))

    def door(self, x: float, w: float, h: float, fill: Colour, arched: bool = False) -> None:
        if arched:
            self.oval(x, h - w / 2, w / 2 + 1.5, w / 2 + 1.5, shade(fill, 0.62))
        self.rect(x - w / 2 - 1.5, 0, x + w / 2 + 1.5, h - (w / 2 if arched else -1.5), shade(fill, 0.62))
        if arched:
            self.oval(x, h - w / 2, w / 2, w / 2, fill)
        self.rect(x - w / 2, 0, x + w / 2, h - (w / 2 if arched else 0), fill)
        for part in (-0.17, 0.17):
            self.line([(x + part * w, 0), (x + part * w, h - w * 0.3)], 0.8, shade(fill, 0.8))
        self.oval(x + w * 0.32, h * 0.42, 1, 1, WARM)

    def bricks(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, share: float = 0.3) -> None:
        """A wall with some visible bricks or stones."""
        self.rect(x0, y0, x1, y1, fill)
        for row, y in enumerate(np.arange(y0 + 1, y1 - 3, 4.5)):
            for x in np.arange(x0 + 1 + 4.5 * (row % 2), x1 - 7, 9):
                if self.rng.random() < share:
                    self.rect(x, y, x + 7.6, y + 3.4, shade(fill, float(self.rng.choice((0.86, 0.92, 1.06)))))

    def planks(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, step: float = 5) -> None:
        self.rect(x0, y0, x1, y1, fill)
        for x in np.arange(x0 + step, x1, step):
            self.line([(x, y0), (x, y1)], 0.9, shade(fill, 0.82))

    def tiles(self, corners: list[tuple[float, float]], fill: Colour) -> None:
        """A roof from its four corners (left foot, right foot, right top, left top) with rows of tiles."""
        self.poly(corners, fill)
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners
        rows = max(2, round((dy - ay) / 5))
        for row in range(rows):
            part = row / rows
            x0, x1, y = ax + (dx - ax) * part, bx + (cx - bx) * part, ay + (dy - ay) * part
            self.line([(x0, y), (x1, y)], 1.0, shade(fill, 0.8))
            for x in np.arange(x0 + 3 + 3 * (row % 2), x1 - 2, 6):
                self.line([(x, y), (x + (0 if row else 0), y + (dy - ay) / rows * 0.9)], 0.7, shade(fill, 0.88))
        self.line([(dx, dy), (cx, cy)], 2, shade(fill, 1.12))

    def leaves(self, x: float, y: float, rx: float, ry: float, fill: Colour, count: int = 46) -> None:
        """A crown: dark below and on the right, light above and on the left."""
        r = 0.24 * min(rx, ry) + 3
        angle, reach = self.rng.uniform(0, 2 * np.pi, count), np.sqrt(self.rng.uniform(0, 1, count))
        xs, ys = np.cos(angle) * reach, np.sin(angle) * reach
        self.oval(x, y, rx * 0.86, ry * 0.86, shade(fill, 0.8))
        order = np.argsort(ys * 0.8 - xs * 0.5 + self.rng.normal(0, 0.25, count))
        for rank, i in enumerate(order):
            tone = 0.68 + 0.52 * rank / count
            size = r * float(self.rng.uniform(0.6, 1.15))
            self.oval(x + xs[i] * (rx - r), y + ys[i] * (ry - r), size, size * 0.86, shade(fill, tone))

    def sprite(self, shadow: float = 1.0, snowy: bool = False, flip: bool = False) -> Sprite:
        """Shade, scale down, and add a soft shadow on the ground; ``shadow`` is its width relative to the thing."""
        small = self.image.reduce(self.fine)
        glow = self.glow.reduce(self.fine)
        mask = small.getchannel("A")
        if flip:
            small, glow, mask = (i.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in (small, glow, mask))
        rgb = _modelled(np.asarray(small), snowy)
        left, top = -round(self.half * self.k / self.fine), -round(self.height * self.k / self.fine)
        if shadow:
            rgb, mask = self._with_shadow(rgb, mask, shadow)
        return Sprite(rgb, mask, glow, left, top)

    def _with_shadow(self, rgb: Image.Image, mask: Image.Image, share: float) -> tuple[Image.Image, Image.Image]:
        k, (w, h) = self.k / self.fine, mask.size
        under = Image.new("L", (w, h), 0)
        half, foot = (self.half - 8) * share * k, self.height * k
        ImageDraw.Draw(under).ellipse((w / 2 - half * 0.95, foot - 4 * k, w / 2 + half * 1.1, foot + 4.5 * k), 96)
        under = under.filter(ImageFilter.BoxBlur(2 * k))
        dark = Image.new("RGB", (w, h), (30, 34, 52))
        dark.paste(rgb, (0, 0), mask)
        return dark, ImageChops.lighter(mask, under)


def _modelled(rgba: np.ndarray, snowy: bool) -> Image.Image:
    """Soft shading from the mask alone: light from the upper left, darker towards the right edge and the foot."""
    h, w = rgba.shape[:2]
    alpha = rgba[..., 3].astype(np.float32) / 255
    soft = np.asarray(Image.fromarray(rgba[..., 3]).filter(ImageFilter.BoxBlur(max(2, w // 16))), np.float32) / 255
    reach = max(1, w // 26)
    edge = np.zeros_like(soft)
    edge[: h - reach, : w - reach] = soft[reach:, reach:]
    across = np.linspace(1.07, 0.9, w, dtype=np.float32)[None]
    down = np.linspace(1.05, 0.93, h, dtype=np.float32)[:, None]
    light = across * down * (0.8 + 0.24 * edge)
    rgb = rgba[..., :3] * light[..., None]
    if snowy:
        depth = max(2, h // 22)
        above = np.zeros_like(alpha)
        above[depth:] = alpha[:-depth]
        cap = np.clip(alpha - above, 0, 1)[..., None] * 0.9
        rgb = rgb * (1 - cap) + np.array((248, 250, 255), np.float32) * cap
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
