"""The training world: a wide illustrated landscape, a camera tour through it, captions, and the truth behind every
picture.

Everything is drawn from a structured ``Scene``, so what is where in which color is known for every picture. World
coordinates are pixels, with x to the right of the camera's starting point; pictures are uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from model.distill.data.finish import FINISHERS, Brush
from model.spec import PAFU_MINI
from model.words.scenery import FIRST_PLACE, PLACE_SPACING
from model.words.vocabulary import COLOURS, GROUNDS, KINDS, ROOFED

WIDTH, HEIGHT = PAFU_MINI.width, PAFU_MINI.height
PICTURES_PER_LATENT = PAFU_MINI.temporal_stride
CHUNK_LATENTS = PAFU_MINI.chunk_latents
GROUND_Y = 98  # the row of the landmarks' feet
OCCUPIED = 0.7  # share of the places with a landmark
SIZE = 0.92
CLOUD_DRIFT = 0.5  # pixels per picture
BLADE_PHASES = 32  # pictures per quarter turn
SMOKE_PHASES = 24
SUPERSAMPLE = 2

Rgb = tuple[int, int, int]
Air = tuple[str, str]  # light and weather
CLEAR, FOG = "clear", "fog"
Pen = ImageDraw.ImageDraw
RGB = {
    "red": (214, 48, 49),
    "orange": (240, 138, 36),
    "yellow": (246, 210, 60),
    "green": (34, 139, 78),
    "blue": (45, 92, 200),
    "purple": (130, 62, 168),
    "pink": (244, 134, 178),
    "white": (244, 242, 236),
}
SKY = {
    "morning": ((150, 196, 226), (252, 224, 196)),
    "day": ((92, 172, 226), (196, 230, 244)),
    "sunset": ((92, 58, 122), (250, 150, 92)),
    "night": ((14, 20, 52), (44, 56, 104)),
}
TINT = {
    "morning": (1.0, 0.96, 0.93),
    "day": (1.0, 1.0, 1.0),
    "sunset": (0.96, 0.80, 0.74),
    "night": (0.68, 0.70, 0.88),
}
FOG_RGB = ((196, 202, 208), (218, 221, 223))
GROUND_RGB = {"meadow": (122, 176, 84), "desert": (226, 190, 126), "snow": (232, 238, 246)}
HILL_RGB = {"meadow": (88, 142, 98), "desert": (196, 150, 104), "snow": (176, 192, 216)}
TRUNK = (104, 72, 48)
HAS_ACCENT = {kind: kind in ROOFED for kind in KINDS}


@dataclass(frozen=True)
class Landmark:
    """kind and colours are words of the vocabulary; x is its middle in world pixels; accent is the roof's colour."""

    kind: str
    colour: str
    accent: str | None
    x: int


@dataclass(frozen=True)
class Cloud:
    """A cloud of the sky."""

    x: float
    y: int
    size: float


@dataclass(frozen=True)
class Scene:
    """A stretch of world from ``left`` to ``right`` (pixels)."""

    seed: int
    ground: str
    left: int
    right: int
    landmarks: tuple[Landmark, ...]
    clouds: tuple[Cloud, ...]
    hill_waves: tuple[tuple[float, float, float], ...]  # (amplitude, wave length, phase)


@dataclass(frozen=True)
class Segment:
    """From ``first_chunk`` until the next segment, one prompt is in force. weather: "fog" hides everything."""

    first_chunk: int
    light: str
    prompt: str
    weather: str = CLEAR

    @property
    def air(self) -> Air:
        """Its light and weather."""
        return self.light, self.weather


@dataclass(frozen=True)
class Clip:
    """A tour through a scene: offsets and speeds per latent frame (pixels, pixels per picture)."""

    scene: Scene
    segments: tuple[Segment, ...]
    offsets: tuple[int, ...]
    speeds: tuple[int, ...]

    def segment_of(self, chunk: int) -> Segment:
        """The segment of a chunk."""
        return [s for s in self.segments if s.first_chunk <= chunk][-1]


# ---------------------------------------------------------------------------------------------- content


def random_scene(rng: np.random.Generator, left: int, right: int) -> Scene:
    """A random scene."""
    places = range(FIRST_PLACE + PLACE_SPACING * ((left - FIRST_PLACE) // PLACE_SPACING), right, PLACE_SPACING)
    landmarks = [random_landmark(rng, x) for x in places if rng.random() < OCCUPIED]
    clouds = tuple(
        Cloud(x=float(cx), y=int(rng.integers(10, 26)), size=float(rng.uniform(0.5, 0.9)))
        for cx in np.arange(left - 60, right + 60, 190)
        + rng.integers(-50, 50, size=len(np.arange(left - 60, right + 60, 190)))
    )
    waves = tuple((float(rng.uniform(4, 13)), float(wave), float(rng.uniform(0, 2 * np.pi))) for wave in (430, 210, 97))
    return Scene(int(rng.integers(1 << 30)), str(rng.choice(GROUNDS)), left, right, tuple(landmarks), clouds, waves)


def random_landmark(rng: np.random.Generator, x: int) -> Landmark:
    """A random landmark at ``x``."""
    kind = str(rng.choice(KINDS))
    colour = str(rng.choice(COLOURS))
    accent = str(rng.choice([c for c in COLOURS if c != colour])) if HAS_ACCENT[kind] else None
    return Landmark(kind, colour, accent, x)


# ---------------------------------------------------------------------------------------------- drawing


def render_clip(clip: Clip) -> np.ndarray:
    """All pictures of the clip, (4 * latents, HEIGHT, WIDTH, 3) uint8."""
    return _render(clip, [(i, part) for i in range(len(clip.offsets)) for part in range(PICTURES_PER_LATENT)])


def render_views(clip: Clip, detail: int = 1) -> np.ndarray:
    """The camera's view at the end of each latent frame, (latents, detail * HEIGHT, detail * WIDTH, 3) uint8.

    ``detail``: pixels of the picture per world pixel, each way.
    """
    return _render(clip, [(i, PICTURES_PER_LATENT) for i in range(len(clip.offsets))], detail)


def _render(clip: Clip, moments: list[tuple[int, int]], detail: int = 1) -> np.ndarray:
    """The pictures at (latent frame, pictures since its first)."""
    strips = {air: _strip(clip.scene, air, detail) for air in {s.air for s in clip.segments}}
    pictures = np.empty((len(moments), detail * HEIGHT, detail * WIDTH, 3), np.uint8)
    for index, (latent, part) in enumerate(moments):
        offset, time = clip.offsets[latent] + part * clip.speeds[latent], latent * PICTURES_PER_LATENT + part
        air, before, mix = _air_at(clip, min(time, (latent + 1) * PICTURES_PER_LATENT - 1))
        picture = _picture(clip.scene, strips[air], air, offset, time, detail)
        if mix < 1:
            earlier = _picture(clip.scene, strips[before], before, offset, time, detail)
            picture = (picture * mix + earlier * (1 - mix)).astype(np.uint8)
        pictures[index] = picture
    return pictures


def _air_at(clip: Clip, index: int) -> tuple[Air, Air, float]:
    """(light and weather, the previous ones, progress of the change): a change takes one chunk."""
    per_chunk = CHUNK_LATENTS * PICTURES_PER_LATENT
    chunk = index // per_chunk
    segment = clip.segment_of(chunk)
    position = clip.segments.index(segment)
    if position == 0 or chunk > segment.first_chunk:
        return segment.air, segment.air, 1.0
    return segment.air, clip.segments[position - 1].air, (index % per_chunk + 1) / per_chunk


def _strip(scene: Scene, air: Air, detail: int) -> np.ndarray:
    """The static part of the world under one light, (detail * HEIGHT, detail * (right - left), 3) uint8; in fog only
    the fog."""
    scale, width, (light, weather) = SUPERSAMPLE * detail, scene.right - scene.left, air
    if weather == FOG:
        return _vertical(width * detail, HEIGHT * detail, *(_lit(tone, light) for tone in FOG_RGB))
    image = Image.fromarray(_sky(width * scale, HEIGHT * scale, light))
    draw = ImageDraw.Draw(image)
    if light == "night":
        _draw_stars(draw, scene, scale)
    _draw_hills(draw, scene, light, scale)
    ground = _lit(GROUND_RGB[scene.ground], light)
    draw.rectangle((0, (GROUND_Y - 6) * scale, width * scale, HEIGHT * scale), fill=ground)
    draw.rectangle((0, 118 * scale, width * scale, HEIGHT * scale), fill=_shade(ground, 0.9))
    for landmark in scene.landmarks:
        _draw_landmark(draw, landmark, (landmark.x - scene.left) * scale, scale, light, finished=detail > 1)
    return np.asarray(image.resize((detail * width, detail * HEIGHT), Image.Resampling.BOX))


def _sky(width: int, height: int, light: str) -> np.ndarray:
    return _vertical(width, height, *SKY[light])


def _vertical(width: int, height: int, upper: Rgb, lower: Rgb) -> np.ndarray:
    """A vertical gradient, (height, width, 3) uint8."""
    mix = np.clip(np.arange(height) / (height * 0.7), 0, 1)[:, None]
    column = (np.array(upper, float) * (1 - mix) + np.array(lower, float) * mix).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(column[:, None], (height, width, 3)))


def _draw_stars(draw: ImageDraw.ImageDraw, scene: Scene, scale: int) -> None:
    rng = np.random.default_rng(scene.seed)
    for _ in range((scene.right - scene.left) // 45):
        x, y = int(rng.integers(0, (scene.right - scene.left) * scale)), int(rng.integers(4 * scale, 56 * scale))
        draw.ellipse((x - scale, y - scale, x + 2 * scale, y + 2 * scale), fill=(226, 226, 202))


def _draw_hills(draw: ImageDraw.ImageDraw, scene: Scene, light: str, scale: int) -> None:
    xs = np.arange(scene.left, scene.right + 4, 4)
    rise = sum(a * np.sin(2 * np.pi * xs / wave + phase) for a, wave, phase in scene.hill_waves)
    ys = GROUND_Y - 18 - 0.7 * rise
    outline = [(float((x - scene.left) * scale), float(y * scale)) for x, y in zip(xs, ys, strict=True)]
    base = (GROUND_Y + 2) * scale
    draw.polygon([(0, base), *outline, (outline[-1][0], base)], fill=_lit(HILL_RGB[scene.ground], light))


def _draw_landmark(draw: Pen, mark: Landmark, x: int, scale: int, light: str, finished: bool) -> None:
    body = _lit(RGB[mark.colour], light)
    accent = _lit(RGB[mark.accent], light) if mark.accent else body
    unit, base = scale * SIZE, (GROUND_Y + 10) * scale
    glow = (255, 226, 130) if light in ("night", "sunset") else _shade(body, 0.55)
    _PAINTERS[mark.kind](draw, x, base, unit, body, accent, _lit(TRUNK, light), glow)
    if finished:
        FINISHERS[mark.kind](Brush(draw, x, base, unit, body, accent, _lit(TRUNK, light)))


def _paint_house(draw: Pen, x: int, base: int, u: float, body: Rgb, accent: Rgb, trunk: Rgb, glow: Rgb) -> None:
    draw.rectangle((x - 30 * u, base - 44 * u, x + 30 * u, base), fill=body)
    draw.polygon([(x - 38 * u, base - 44 * u), (x, base - 80 * u), (x + 38 * u, base - 44 * u)], fill=accent)
    draw.rectangle((x - 7 * u, base - 26 * u, x + 7 * u, base), fill=_shade(body, 0.6))
    for side in (-20, 20):
        draw.rectangle((x + (side - 6) * u, base - 34 * u, x + (side + 6) * u, base - 22 * u), fill=glow)


def _paint_tree(draw: Pen, x: int, base: int, u: float, body: Rgb, accent: Rgb, trunk: Rgb, glow: Rgb) -> None:
    draw.rectangle((x - 5 * u, base - 40 * u, x + 5 * u, base), fill=trunk)
    draw.ellipse((x - 30 * u, base - 94 * u, x + 30 * u, base - 32 * u), fill=body)
    draw.ellipse((x - 18 * u, base - 86 * u, x + 6 * u, base - 62 * u), fill=_shade(body, 1.14))


def _paint_pine(draw: Pen, x: int, base: int, u: float, body: Rgb, accent: Rgb, trunk: Rgb, glow: Rgb) -> None:
    draw.rectangle((x - 5 * u, base - 16 * u, x + 5 * u, base), fill=trunk)
    for half, low, high in ((30, 14, 56), (24, 40, 80), (17, 64, 102)):
        draw.polygon([(x - half * u, base - low * u), (x, base - high * u), (x + half * u, base - low * u)], fill=body)


def _paint_tower(draw: Pen, x: int, base: int, u: float, body: Rgb, accent: Rgb, trunk: Rgb, glow: Rgb) -> None:
    draw.rectangle((x - 16 * u, base - 88 * u, x + 16 * u, base), fill=body)
    draw.rectangle((x - 22 * u, base - 104 * u, x + 22 * u, base - 86 * u), fill=accent)
    for level in (70, 44):
        draw.rectangle((x - 5 * u, base - level * u, x + 5 * u, base - (level - 14) * u), fill=glow)


def _paint_mill(draw: Pen, x: int, base: int, u: float, body: Rgb, accent: Rgb, trunk: Rgb, glow: Rgb) -> None:
    draw.polygon(
        [(x - 26 * u, base), (x - 15 * u, base - 62 * u), (x + 15 * u, base - 62 * u), (x + 26 * u, base)], fill=body
    )
    draw.pieslice((x - 24 * u, base - 88 * u, x + 24 * u, base - 40 * u), 180, 360, fill=accent)
    draw.rectangle((x - 6 * u, base - 20 * u, x + 6 * u, base), fill=glow)


_PAINTERS = {
    "house": _paint_house,
    "tree": _paint_tree,
    "pine": _paint_pine,
    "tower": _paint_tower,
    "mill": _paint_mill,
}


def _picture(scene: Scene, strip: np.ndarray, air: Air, offset: int, time: int, detail: int) -> np.ndarray:
    left, (light, weather) = offset - scene.left, air
    picture = strip[:, detail * left : detail * (left + WIDTH)].copy()
    if weather == FOG:
        return picture
    for cloud in scene.clouds:
        x = int(cloud.x + CLOUD_DRIFT * time) - offset
        _blend(picture, _cloud_sprite(round(cloud.size * 10), light, detail), x * detail, cloud.y * detail)
    for mark in scene.landmarks:
        if -120 < mark.x - offset < WIDTH + 120:
            _animate(picture, mark, light, mark.x - offset, time, detail)
    return picture


def _animate(picture: np.ndarray, mark: Landmark, light: str, x: int, time: int, detail: int) -> None:
    base = GROUND_Y + 10
    if mark.kind == "mill":
        blades = _blade_sprite(round(SIZE * 50), (time + mark.x) % BLADE_PHASES, light, detail)
        _blend(picture, blades, x * detail, (base - round(66 * SIZE)) * detail)
    if mark.kind == "house":
        smoke = _smoke_sprite((time + mark.x) % SMOKE_PHASES, light, detail)
        _blend(picture, smoke, (x + round(20 * SIZE)) * detail, (base - round(84 * SIZE)) * detail)


def _blend(picture: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Blend a (h, w, 4) float sprite into the picture, with its middle at (x, y)."""
    h, w = sprite.shape[:2]
    x0, y0 = x - w // 2, y - h // 2
    px0, px1, py0, py1 = max(x0, 0), min(x0 + w, picture.shape[1]), max(y0, 0), min(y0 + h, picture.shape[0])
    if px0 >= px1 or py0 >= py1:
        return
    part = sprite[py0 - y0 : py1 - y0, px0 - x0 : px1 - x0]
    under = picture[py0:py1, px0:px1]
    picture[py0:py1, px0:px1] = under + (part[..., :3] - under) * part[..., 3:]


def _sprite(width: int, height: int, detail: int, paint: Callable[[ImageDraw.ImageDraw, int], None]) -> np.ndarray:
    scale = 3 * detail
    image = Image.new("RGBA", (width * scale, height * scale), (0, 0, 0, 0))
    paint(ImageDraw.Draw(image), scale)
    small = np.asarray(image.resize((width * detail, height * detail), Image.Resampling.BOX), np.float32)
    alpha = small[..., 3:] / 255
    return np.concatenate([small[..., :3], alpha], -1)


@lru_cache(maxsize=256)
def _cloud_sprite(tenths: int, light: str, detail: int) -> np.ndarray:
    colour = {"morning": (255, 240, 228), "day": (250, 252, 255), "sunset": (240, 164, 150), "night": (62, 74, 120)}[
        light
    ]
    size = tenths / 10

    def paint(draw: ImageDraw.ImageDraw, s: int) -> None:
        for cx, cy, r in ((26, 26, 13), (44, 20, 17), (64, 25, 14)):
            draw.ellipse([s * size * v for v in (cx - r, cy - r, cx + r, cy + r)], fill=(*colour, 255))
        draw.rounded_rectangle([s * size * v for v in (14, 24, 78, 39)], s * size * 7, fill=(*colour, 255))

    return _sprite(round(92 * size), round(46 * size), detail, paint)


@lru_cache(maxsize=1024)
def _blade_sprite(fiftieths: int, phase: int, light: str, detail: int) -> np.ndarray:
    size, half = fiftieths / 50, 40
    colour = _lit((252, 250, 244), light)

    def paint(draw: ImageDraw.ImageDraw, s: int) -> None:
        for quarter in range(4):
            angle = np.pi / 2 * (quarter + phase / BLADE_PHASES)
            along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
            tip, mid = along * 36 * size, along * 8 * size
            corners = [mid, mid + across * 6 * size, tip + across * 6 * size, tip]
            draw.polygon([tuple(s * (half + c)) for c in corners], fill=(*colour, 255))
            draw.line([s * half, s * half, *(s * (half + tip))], fill=(*_shade(colour, 0.6), 255), width=s * 2)

    return _sprite(2 * half, 2 * half, detail, paint)


@lru_cache(maxsize=256)
def _smoke_sprite(phase: int, light: str, detail: int) -> np.ndarray:
    colour = _lit((236, 236, 236), light)

    def paint(draw: ImageDraw.ImageDraw, s: int) -> None:
        for puff in range(3):
            age = (phase / SMOKE_PHASES + puff) / 3
            x, y, r = 12 + 6 * np.sin(3 * age), 44 - 38 * age, 3 + 5 * age
            draw.ellipse([s * v for v in (x - r, y - r, x + r, y + r)], fill=(*colour, int(190 * (1 - age))))

    return _sprite(30, 52, detail, paint)


def _lit(colour: tuple[int, int, int], light: str) -> tuple[int, int, int]:
    r, g, b = (min(255, round(c * t)) for c, t in zip(colour, TINT[light], strict=True))
    return r, g, b


def _shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return r, g, b
