"""Draws the sprite of a thing, and small moving sprites: blades, smoke."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from model.distill.world2.brush import Brush, Sprite
from model.distill.world2.buildings import BUILDINGS
from model.distill.world2.catalogue import AFLOAT, ALOFT, KIND
from model.distill.world2.creatures import CREATURES, overhanging
from model.distill.world2.scene import Thing

PAINTERS = BUILDINGS | CREATURES
BLADE_PHASES = 40  # pictures per quarter turn
SMOKE_PHASES = 48
SNOWED_ON = frozenset("house tree pine tower mill church barn lighthouse castle bush fence well bridge tent".split())
SHADOW = {"tree": 0.55, "pine": 0.7, "palm": 0.4, "lamp": 0.9, "mill": 0.55, "house": 0.85, AFLOAT: 0.0, ALOFT: 0.0}


def sprite_of(thing: Thing, frame: int = 0, snowy: bool = False) -> Sprite:
    """The thing in neutral light, in drawing ``frame`` of its idle motion."""
    kind = KIND[thing.kind]
    hanging = thing.layer == "near" and thing.kind == "tree"
    height = 130 if hanging else kind.height
    b = Brush(kind.width + 22 * hanging, height, thing.size, thing.colour, thing.accent, thing.seed)
    (overhanging if hanging else PAINTERS[thing.kind])(b, frame)
    shadow = 0.2 if hanging else SHADOW.get(thing.kind, 0.9)
    return b.sprite(shadow, snowy and thing.kind in SNOWED_ON, thing.facing < 0)


@lru_cache(maxsize=2048)
def blades(tenths: int, phase: int) -> Sprite:
    """The mill's blades, their hub in the middle; ``tenths``: of a pixel per unit."""
    b = Brush(96, 48, tenths / 10, "white", None, 0)
    b.below = 54
    b.pixels = (b.pixels[0], round((b.height + b.below) * b.k) // b.fine * b.fine)
    b.image = Image.new("RGBA", b.pixels, (240, 234, 220, 0))
    b.glow = Image.new("L", b.pixels, 0)
    b._draw, b._glow = ImageDraw.Draw(b.image), ImageDraw.Draw(b.glow)
    for quarter in range(4):
        a = np.pi / 2 * (quarter + phase / BLADE_PHASES)
        along, across = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
        corners = [along * 10, along * 10 + across * 10, along * 46 + across * 10, along * 46]
        b.poly([(float(x), float(y)) for x, y in corners], (244, 238, 224))
        for r in (16, 22, 28, 34, 40):
            p, q = along * r, along * r + across * 10
            b.line([(float(p[0]), float(p[1])), (float(q[0]), float(q[1]))], 0.9, (178, 158, 132))
        tip = along * 47
        b.line([(0, 0), (float(tip[0]), float(tip[1]))], 2.4, (112, 82, 58))
    b.oval(0, 0, 3.6, 3.6, (92, 66, 48))
    return b.sprite(shadow=0)


@lru_cache(maxsize=256)
def halo(radius: int) -> Image.Image:
    """Mask of the glow around a burning lamp, (2 radius, 2 radius)."""
    y, x = np.mgrid[-radius:radius, -radius:radius] + 0.5
    return Image.fromarray((np.clip(1 - np.hypot(x, y) / radius, 0, 1) ** 2 * 150).astype(np.uint8))


@lru_cache(maxsize=512)
def smoke(tenths: int, phase: int) -> tuple[Image.Image, int, int]:
    """Mask of a chimney's smoke, and its (left, top) relative to the chimney."""
    k = tenths / 10
    w, h = max(8, round(44 * k)), max(8, round(70 * k))
    image = Image.new("L", (2 * w, 2 * h), 0)
    draw = ImageDraw.Draw(image)
    for puff in range(4):
        age = (phase / SMOKE_PHASES + puff) / 4
        x, y, r = 12 + 22 * age**1.4 + 2 * np.sin(5 * age), 66 - 58 * age, 2.5 + 7 * age
        tone = int(150 * (1 - age) * min(1.0, 8 * age))
        layer = Image.new("L", image.size, 0)
        ImageDraw.Draw(layer).ellipse([2 * k * v for v in (x - r, y - r, x + r, y + r)], fill=tone)
        image = Image.fromarray(np.maximum(np.asarray(image), np.asarray(layer)))
        draw = ImageDraw.Draw(image)
    del draw
    return image.reduce(2), -round(12 * k), -round(66 * k)
