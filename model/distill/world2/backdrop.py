"""Sky, clouds, mountains, ground, water, rain and snow: wide periodic pictures, drawn once per process."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from model.distill.world2.brush import shade
from model.distill.world2.light import GREY, SKY, TINT, WEATHER, curve, sky_colours
from model.distill.world2.size import HEIGHT, HORIZON, SCALE, WIDTH

TILE = 2 * WIDTH  # a backdrop repeats after this many pixels
GROUND_ROWS = round(200 * SCALE)
VARIANTS = 3
GROUND_RGB = {
    "meadow": ((150, 190, 96), (92, 148, 70)),
    "desert": ((240, 208, 148), (212, 164, 102)),
    "snow": ((248, 250, 255), (206, 218, 238)),
    "lake": ((146, 188, 100), (90, 146, 78)),
    "seashore": ((246, 226, 178), (226, 194, 138)),
}
WATER_RGB = ((150, 206, 220), (44, 112, 158))
MOUNTAIN_RGB = {
    "meadow": (96, 132, 136),
    "desert": (190, 134, 104),
    "snow": (136, 156, 190),
    "lake": (92, 124, 148),
    "seashore": (118, 150, 156),
}


@lru_cache(maxsize=64)
def sky(light: str, weather: str) -> Image.Image:
    """The background: gradient, sun or moon, stars."""
    top, middle, low = sky_colours(light, weather)
    part = np.clip(np.arange(HEIGHT) / (HORIZON * 1.25), 0, 1)[:, None]
    upper = top + (middle - top) * np.clip(part / 0.55, 0, 1)
    column = upper + (low - upper) * np.clip((part - 0.45) / 0.55, 0, 1) ** 1.2
    picture = np.repeat(column[:, None].astype(np.float32), WIDTH, 1)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / SCALE
    veil = 1 - 0.92 * WEATHER[weather][0]
    place, radius, colour, reach = {
        "morning": ((404, 70), 13, (255, 244, 214), 90),
        "day": ((410, 34), 14, (255, 252, 232), 70),
        "sunset": ((356, 96), 18, (255, 224, 150), 130),
        "night": ((404, 42), 13, (244, 242, 222), 60),
    }[light]
    distance = np.hypot(x - place[0], y - place[1])
    glow = (np.exp(-distance / reach) * 0.62 + np.clip(radius + 0.5 - distance, 0, 1))[..., None].clip(0, 1)
    if light == "night":
        glow = (np.exp(-distance / reach) * 0.3 + np.clip(radius + 0.5 - distance, 0, 1) * _moon(x, y, place))[
            ..., None
        ]
        rng = np.random.default_rng(5)
        for _ in range(90):
            sx, sy = int(rng.integers(0, WIDTH)), int(rng.integers(0, int(HORIZON * 0.95)))
            picture[sy, sx] += 170 * veil * float(rng.uniform(0.25, 1))
    picture += (np.array(colour, np.float32) - picture) * np.clip(glow, 0, 1) * veil
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _moon(x: np.ndarray, y: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """The moon's maria: slightly darker discs."""
    tone = np.ones_like(x)
    for dx, dy, r in ((-4, -3, 4), (4, 2, 3), (-1, 6, 2)):
        tone -= 0.1 * np.clip(r + 0.5 - np.hypot(x - place[0] - dx, y - place[1] - dy), 0, 1)
    return tone


CLOUD_ROWS = round(112 * SCALE)


@lru_cache(maxsize=128)
def clouds(light: str, weather: str, variant: int) -> tuple[Image.Image, Image.Image]:
    """(colour, mask) of a band of clouds, twice TILE wide, so that any screen-wide cut lies inside."""
    rng = np.random.default_rng((11, variant))
    count = {"clear": 5, "cloudy": 15, "rain": 16, "snowfall": 12, "fog": 6}[weather]
    light_rgb = np.array(
        {"morning": (255, 246, 236), "day": (255, 255, 255), "sunset": (255, 190, 160), "night": (84, 96, 146)}[light]
    )
    dark_rgb = np.array(
        {"morning": (196, 200, 216), "day": (190, 208, 228), "sunset": (142, 92, 132), "night": (36, 44, 84)}[light]
    )
    grey = WEATHER[weather][0] * 0.7
    light_rgb = light_rgb * (1 - grey) + np.array(GREY[light]) * grey * 1.04
    dark_rgb = dark_rgb * (1 - grey) + np.array(GREY[light]) * grey * 0.86
    mask, tone = (Image.new("L", (TILE, CLOUD_ROWS), 0) for _ in range(2))
    for i in range(count):
        size = float(rng.uniform(0.5, 1.15)) * SCALE * (1.25 if weather in ("cloudy", "rain") else 1)
        cx, cy = (i + rng.uniform(0.1, 0.9)) * TILE / count, SCALE * float(rng.uniform(16, 66)) + 10 * size
        _puff(rng, mask, tone, cx, cy, size)
    mask, tone = mask.filter(ImageFilter.GaussianBlur(1.3 * SCALE)), tone.filter(ImageFilter.GaussianBlur(2.2 * SCALE))
    share = (np.asarray(tone, np.float32) / 255)[..., None]
    colour = Image.fromarray((dark_rgb + (light_rgb - dark_rgb) * share).clip(0, 255).astype(np.uint8))
    return _twice(colour), _twice(mask.point([round(v * 0.92) for v in range(256)]))


def _puff(rng: np.random.Generator, mask: Image.Image, tone: Image.Image, cx: float, cy: float, size: float) -> None:
    cover, bright = ImageDraw.Draw(mask), ImageDraw.Draw(tone)
    puffs = []
    for _ in range(13):
        x = float(rng.normal(0, 24))
        r = max(5.0, 17 - abs(x) * 0.28 + float(rng.uniform(-3, 3)))
        puffs.append((x, -r * 0.55 + float(rng.uniform(-3, 3)), r))
    for turn in (-TILE, 0, TILE):
        for x, y, r in puffs:
            x, y, r = cx + turn + x * size, cy + y * size, r * size
            cover.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.72), 255)
        for x, y, r in sorted(puffs, key=lambda p: -p[1]):
            x, y, r = cx + turn + x * size, cy + y * size, r * size
            bright.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.72), 120)
            bright.ellipse((x - r * 0.9, y - r * 0.8, x + r * 0.72, y + r * 0.3), 255)


def _twice(image: Image.Image) -> Image.Image:
    wide = Image.new(image.mode, (2 * image.width, image.height))
    wide.paste(image, (0, 0))
    wide.paste(image, (image.width, 0))
    return wide


MOUNTAIN_ROWS = round(122 * SCALE)
MOUNTAIN_FOOT = 34 * SCALE  # rows of it below its lowest top


@lru_cache(maxsize=128)
def mountains(ground: str, light: str, weather: str, variant: int) -> tuple[Image.Image, Image.Image]:
    """(colour, mask) of the farthest ridge, twice TILE wide; its foot is the last row."""
    rng = np.random.default_rng((13, variant, len(ground)))
    xs = np.arange(TILE)
    ridge = np.zeros(TILE)
    rough = {"meadow": 0.45, "desert": 0.3, "snow": 0.8, "lake": 0.75, "seashore": 0.4}[ground]
    for octave in range(1, 7):
        waves = max(1, round(2.2**octave))
        phase = rng.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * waves * xs / TILE + phase)
        sharp = 1 - 2 * np.abs(wave)
        ridge += (wave * (1 - rough) + sharp * rough) * 0.6**octave * (1 if octave < 4 else rough)
    height = {"meadow": 34, "desert": 32, "snow": 58, "lake": 56, "seashore": 18}[ground] * SCALE
    tops = MOUNTAIN_ROWS - MOUNTAIN_FOOT - height * np.clip(0.62 + ridge * 0.55, 0.04, 1.4)
    if ground == "desert":
        tops = np.maximum(tops, MOUNTAIN_ROWS - MOUNTAIN_FOOT - height * 0.82)  # flat-topped mountains
    y = np.arange(MOUNTAIN_ROWS)[:, None]
    below = y - tops[None]
    mask = np.clip(below + 0.5, 0, 1)
    slope = np.gradient(np.convolve(np.r_[tops[-4:], tops, tops[:4]], np.ones(9) / 9, "valid"))
    facet = np.clip(slope * 1.4 + 0.5 * np.sin(below * 0.21 / SCALE + xs * 0.05 / SCALE) * rough, -1, 1)
    base = np.array(MOUNTAIN_RGB[ground], np.float32)
    rgb = base * (1 - 0.16 * facet[..., None]) + np.clip(below / (70 * SCALE), 0, 1)[..., None] * 26
    if ground in ("snow", "lake"):
        line = (
            (15 + 9 * np.sin(xs / (7 * SCALE)) + 5 * np.sin(xs / (3.1 * SCALE))) * SCALE * np.clip(ridge + 0.9, 0, 1.5)
        )
        cap = np.clip((line - below) / 2, 0, 1)[..., None] * 0.9
        rgb = rgb * (1 - cap) + np.array((250, 252, 255), np.float32) * cap * (
            1 - 0.12 * np.clip(facet, 0, 1)[..., None]
        )
    image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).point(curve("mountain", light, weather))
    return _twice(image), _twice(Image.fromarray((mask * 255).astype(np.uint8)))


@lru_cache(maxsize=256)
def ground_tile(ground: str, layer: str, light: str, weather: str, variant: int) -> Image.Image:
    """Lit ground of a layer, GROUND_ROWS high and twice TILE wide; its first row is 16 units above the skyline."""
    return _twice(_raw_ground(ground, layer, variant).point(curve(layer, light, weather)))


@lru_cache(maxsize=64)
def _raw_ground(ground: str, layer: str, variant: int) -> Image.Image:
    rng = np.random.default_rng((17, variant, len(layer), len(ground)))
    k = SCALE * {"far": 0.45, "mid": 0.7, "main": 1.0}[layer]
    top, low = (np.array(c, np.float32) for c in GROUND_RGB[ground])
    part = np.clip((np.arange(GROUND_ROWS) - 16 * SCALE) / (90 * k), 0, 1)[:, None, None]
    noise = rng.normal(0, 1, (GROUND_ROWS // 6 + 2, TILE // 24)).astype(np.float32)
    noise = np.concatenate([noise, noise[:, :1]], 1)
    patches = np.asarray(Image.fromarray(noise).resize((TILE, GROUND_ROWS), Image.Resampling.BICUBIC))[..., None]
    strength = {"snow": 2.5, "seashore": 4.0}.get(ground, 6.0)
    picture = np.repeat(top + (low - top) * part, TILE, 1) + patches * strength
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    _STROKES[ground](ImageDraw.Draw(image), rng, k, image)
    return image


def _grass(draw: ImageDraw.ImageDraw, rng: np.random.Generator, k: float, image: Image.Image) -> None:
    for _ in range(round(1500 / (k / SCALE))):
        x, y = int(rng.integers(0, TILE)), int(rng.integers(int(14 * SCALE), GROUND_ROWS))
        colour = shade(image.getpixel((x, y)), float(rng.choice((0.86, 0.92, 1.08, 1.14))))  # type: ignore[arg-type]
        for blade in (-2, 0, 2):
            draw.line((x + blade * k, y, x + blade * 1.6 * k, y - float(rng.uniform(2, 5)) * k), colour)
    for _ in range(150):
        x, y = int(rng.integers(0, TILE)), int(rng.integers(int(18 * SCALE), GROUND_ROWS))
        colour = ((250, 240, 240), (250, 216, 110), (232, 128, 132), (190, 160, 226))[int(rng.integers(4))]
        draw.ellipse((x - k, y - k, x + k, y + k), colour)


def _ripples(draw: ImageDraw.ImageDraw, rng: np.random.Generator, k: float, image: Image.Image) -> None:
    for _ in range(round(330 / (k / SCALE))):
        x, y = float(rng.uniform(0, TILE)), float(rng.uniform(18 * SCALE, GROUND_ROWS - 1))
        length, tone = float(rng.uniform(16, 60)) * k, float(rng.choice((0.93, 0.955, 1.05)))
        colour = shade(image.getpixel((int(x), int(y))), tone)  # type: ignore[arg-type]
        points = [(x + length * i / 6, y + 2.2 * k * np.sin(i / 6 * 2 * np.pi)) for i in range(7)]
        draw.line(points, colour, max(1, round(1.3 * k)))
    for _ in range(60):
        x, y, r = (
            float(rng.uniform(0, TILE)),
            float(rng.uniform(20 * SCALE, GROUND_ROWS)),
            float(rng.uniform(1, 2.6)) * k,
        )
        draw.ellipse((x - 1.5 * r, y - r, x + 1.5 * r, y + r), (170, 140, 108))
        draw.ellipse((x - 1.5 * r, y - r, x + r, y + r * 0.4), (204, 176, 142))


def _drifts(draw: ImageDraw.ImageDraw, rng: np.random.Generator, k: float, image: Image.Image) -> None:
    for _ in range(round(150 / (k / SCALE))):
        x, y = float(rng.uniform(0, TILE)), float(rng.uniform(20 * SCALE, GROUND_ROWS - 1))
        length = float(rng.uniform(20, 80)) * k
        colour = shade(image.getpixel((int(x), int(y))), float(rng.choice((0.955, 0.97, 1.03))))  # type: ignore[arg-type]
        points = [(x + length * i / 6, y - 4 * k * np.sin(i / 6 * np.pi)) for i in range(7)]
        draw.line(points, colour, max(1, round(2 * k)))
    for _ in range(90):
        x, y = float(rng.uniform(0, TILE)), float(rng.uniform(20 * SCALE, GROUND_ROWS))
        draw.line((x, y, x + k, y - 4 * k), (150, 158, 130))


_STROKES = {"meadow": _grass, "lake": _grass, "desert": _ripples, "seashore": _ripples, "snow": _drifts}


@lru_cache(maxsize=64)
def water_tile(layer: str, light: str, weather: str) -> tuple[Image.Image, Image.Image]:
    """(color, mask) of water, twice TILE wide, with its first row at the waterline; the mask lets reflections
    through."""
    rng = np.random.default_rng((19, len(layer)))
    rows = GROUND_ROWS
    k = SCALE * {"far": 0.45, "mid": 0.8}[layer]
    near, deep = (np.array(c, np.float32) for c in WATER_RGB)
    part = np.clip(np.arange(rows) / (60 * k), 0, 1)[:, None, None]
    tint = np.array(TINT[light], np.float32) * WEATHER[weather][2]
    sky_rgb = sky_colours(light, weather)[1:].mean(0)
    picture = np.repeat(((near + (deep - near) * part) * tint) * 0.62 + sky_rgb * 0.38, TILE, 1)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(700):
        y = float(rng.uniform(1, 1 + rows * rng.uniform(0.05, 1)))
        x, length = float(rng.uniform(0, TILE)), float(rng.uniform(5, 26)) * k
        colour = shade(image.getpixel((int(x), min(rows - 1, int(y)))), float(rng.choice((0.93, 1.07, 1.12))))  # type: ignore[arg-type]
        draw.line((x, y, x + length, y), colour)
    mask = np.clip(110 + 110 * np.arange(rows) / (50 * k), 110, 225).astype(np.uint8)
    return _twice(image), Image.fromarray(np.ascontiguousarray(np.broadcast_to(mask[:, None], (rows, 2 * TILE))))


@lru_cache(maxsize=8)
def glints(which: int) -> Image.Image:
    """A mask of short bright dashes; two of them, moved against each other, make water sparkle."""
    rng = np.random.default_rng((23, which))
    image = Image.new("L", (TILE, GROUND_ROWS), 40)
    draw = ImageDraw.Draw(image)
    for _ in range(1500):
        y = int(rng.integers(0, GROUND_ROWS))
        x, length = int(rng.integers(0, TILE)), float(rng.uniform(6, 22)) * SCALE
        draw.line((x, y, x + length, y), 200)
    return _twice(image)


FALL_ROWS = HEIGHT


@lru_cache(maxsize=8)
def falling(weather: str, depth: int) -> Image.Image:
    """A mask of rain or snow, twice as wide and high as its period (TILE, FALL_ROWS)."""
    rng = np.random.default_rng((29, depth))
    image = Image.new("L", (TILE, FALL_ROWS), 0)
    draw = ImageDraw.Draw(image)
    for _ in range({"rain": 210, "snowfall": 230}[weather]):
        x, y = float(rng.uniform(0, TILE)), float(rng.uniform(0, FALL_ROWS))
        for up in (0, -FALL_ROWS):
            if weather == "rain":
                length = (9 + 7 * depth) * SCALE
                draw.line((x, y + up, x - 0.22 * length, y + up + length), 78 + 24 * depth)
            else:
                r = (0.8 + 0.7 * depth) * SCALE
                draw.ellipse((x - r, y + up - r, x + r, y + up + r), 200 + 40 * depth)
    wide = _twice(image.filter(ImageFilter.BoxBlur(0.5)))
    tall = Image.new("L", (wide.width, 2 * FALL_ROWS))
    tall.paste(wide, (0, 0))
    tall.paste(wide, (0, FALL_ROWS))
    return tall


@lru_cache(maxsize=4)
def fog_bank(which: int) -> Image.Image:
    """A soft mask of drifting fog, twice TILE wide and HEIGHT high."""
    rng = np.random.default_rng((31, which))
    noise = rng.uniform(0, 1, (9, 12)).astype(np.float32)
    noise = np.concatenate([noise, noise[:, :1]], 1)
    soft = np.asarray(Image.fromarray(noise).resize((TILE, HEIGHT), Image.Resampling.BICUBIC))
    rows = np.exp(-(((np.arange(HEIGHT) / SCALE - 166) / 42) ** 2))[:, None]
    return _twice(Image.fromarray((np.clip(soft * rows, 0, 1) * 150).astype(np.uint8)))


assert set(SKY) == set(TINT)
