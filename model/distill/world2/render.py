"""Pictures of a clip with ground truth: parallax and identity of every pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops

from model.distill.world2 import backdrop
from model.distill.world2.brush import SOLID, WARM, Sprite
from model.distill.world2.catalogue import AFLOAT, ALOFT, KIND
from model.distill.world2.draw import BLADE_PHASES, SMOKE_PHASES, blades, halo, smoke, sprite_of
from model.distill.world2.light import GLOWING, curve, sky_colours
from model.distill.world2.paths import Clip
from model.distill.world2.scene import Scene, Thing, layer_range, skyline
from model.distill.world2.size import (
    CLOUD_PARALLAX,
    HEIGHT,
    HORIZON,
    LAYER,
    LAYERS,
    MOUNTAIN_PARALLAX,
    PICTURES_PER_LATENT,
    SCALE,
    SKY_PARALLAX,
    WIDTH,
    Layer,
)

NOTHING = -1  # identity of a pixel of sky, mountains, ground or water
CLOUD_DRIFT = 0.4 * SCALE  # pixels per picture
RIM = round(16 * SCALE)  # rows of a ground tile above the mean skyline
HUB = 66  # units above a mill's foot
FLAMES = {"lamp": (64, 40), "lighthouse": (107, 46)}  # height above the foot and reach of their light, units


@dataclass
class View:
    """One picture with its ground truth, painted from back to front.

    ground (H, W) float16: parallax of the backdrop or ground behind the things; identity (H, W) int16.
    """

    image: Image.Image
    ground: np.ndarray
    identity: np.ndarray

    def cover(self, x: int, y: int, solid: np.ndarray, of: np.ndarray, value: float) -> None:
        """Set ``of``, a ground-truth map of this view, where something with its corner at (x, y) covers it."""
        h, w = solid.shape
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT)
        if x0 < x1 and y0 < y1:
            of[y0:y1, x0:x1][solid[y0 - y : y1 - y, x0 - x : x1 - x]] = value


@dataclass
class Painter:
    """Draws pictures of one scene; caches every sprite in neutral light and in each light used."""

    scene: Scene
    sprites: dict[tuple[int, int], Sprite] = field(default_factory=dict)
    lit: dict[tuple[int, int, str], Image.Image] = field(default_factory=dict)
    edges: dict[str, tuple[int, int, Image.Image, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.variant = self.scene.seed % backdrop.VARIANTS
        self.by_layer = {la.name: [t for t in self.scene.things if t.layer == la.name] for la in LAYERS}
        self.middles = {name: np.array([t.x for t in things]) for name, things in self.by_layer.items()}
        self.widths = {name: np.array([t.width for t in things]) for name, things in self.by_layer.items()}
        self.parallax_of = np.array([LAYER[t.layer].parallax for t in self.scene.things], np.float16)

    def view(self, camera: np.ndarray, light: str, time: int) -> View:
        """The picture for a camera at (x, y) pixels, ``time`` pictures after the clip's start."""
        ground = np.full((HEIGHT, WIDTH), SKY_PARALLAX, np.float16)
        identity = np.full((HEIGHT, WIDTH), NOTHING, np.int16)
        view = View(backdrop.sky(light, self.scene.weather).copy(), ground, identity)
        self._clouds(view, camera, light, time)
        self._mountains(view, camera, light)
        for index, layer in enumerate(LAYERS):
            x, y = round(layer.parallax * camera[0]), round(layer.parallax * camera[1])
            if self.scene.water(layer.name):
                self._water(view, layer, x, y, light, time, self._hidden_from(index, camera[1]))
            elif layer.name != "near":
                self._ground(view, layer, x, y, light, self._hidden_from(index, camera[1]))
            if layer.name == "main" and self.scene.weather == "fog":
                self._fog(view, camera, light, time)
            for thing in self._near(layer, x):
                self._thing(view, layer, thing, x, y, light, time)
        if self.scene.weather in ("rain", "snowfall"):
            self._falling(view, camera, light, time)
        return view

    def parallax(self, view: View) -> np.ndarray:
        """(H, W) float16: the parallax of every visible surface."""
        surface, things = view.ground.copy(), view.identity != NOTHING
        surface[things] = self.parallax_of[view.identity[things]]
        return surface

    def _near(self, layer: Layer, x: int) -> list[Thing]:
        """The things of a layer that may be in the picture, in painting order."""
        middles, widths = self.middles[layer.name] - x, self.widths[layer.name]
        seen = np.nonzero((middles > -widths) & (middles < WIDTH + widths))[0]
        return [self.by_layer[layer.name][i] for i in seen]

    def _hidden_from(self, index: int, y: float) -> int:
        """The row from which on the grounds of the layers after LAYERS[index] hide it, for a camera at height ``y``."""
        rows = [HEIGHT]
        for layer in LAYERS[index + 1 : -1]:
            if not self.scene.water(layer.name):  # water shows what is behind it
                _, first, mask, _ = self._edge(layer)
                rows.append(first + mask.height - round(layer.parallax * y) + 1)
        return max(0, min(rows))

    def _clouds(self, view: View, camera: np.ndarray, light: str, time: int) -> None:
        colour, mask = backdrop.clouds(light, self.scene.weather, self.variant)
        left = round(CLOUD_PARALLAX * camera[0] + CLOUD_DRIFT * time + self.scene.seed) % backdrop.TILE
        top = -round(CLOUD_PARALLAX * camera[1])
        box = (left, 0, left + WIDTH, backdrop.CLOUD_ROWS)
        view.image.paste(colour.crop(box), (0, top), mask.crop(box))

    def _mountains(self, view: View, camera: np.ndarray, light: str) -> None:
        colour, mask = backdrop.mountains(self.scene.ground, light, self.scene.weather, self.variant)
        left = (round(MOUNTAIN_PARALLAX * camera[0]) + self.scene.seed // 7) % backdrop.TILE
        foot = round(HORIZON + 56 * SCALE - MOUNTAIN_PARALLAX * camera[1])
        box, top = (left, 0, left + WIDTH, backdrop.MOUNTAIN_ROWS), foot - backdrop.MOUNTAIN_ROWS
        part = mask.crop(box)
        view.image.paste(colour.crop(box), (0, top), part)
        view.cover(0, top, np.asarray(part) >= SOLID, view.ground, MOUNTAIN_PARALLAX)

    def _edge(self, layer: Layer) -> tuple[int, int, Image.Image, np.ndarray]:
        """(first column, first row, mask, solid) of the rows where the layer's ground begins."""
        if layer.name not in self.edges:
            left, right = layer_range(layer)
            tops = skyline(self.scene, layer, np.arange(left, right))
            first, last = int(np.floor(tops.min())) - 1, int(np.ceil(tops.max())) + 1
            mask = np.clip(np.arange(first, last)[:, None] - tops[None] + 0.5, 0, 1)
            image = Image.fromarray((mask * 255).astype(np.uint8))
            self.edges[layer.name] = (left, first, image, np.asarray(image) >= SOLID)
        return self.edges[layer.name]

    def _ground(self, view: View, layer: Layer, x: int, y: int, light: str, end: int) -> None:
        left, first, mask, solid = self._edge(layer)
        tile = backdrop.ground_tile(self.scene.ground, layer.name, light, self.scene.weather, self.variant)
        column, start = (x + self.scene.seed) % backdrop.TILE, RIM + first - round(layer.ground_y)
        top, rows = first - y, mask.height
        edge = (x - left, 0, x - left + WIDTH, rows)
        view.image.paste(tile.crop((column, start, column + WIDTH, start + rows)), (0, top), mask.crop(edge))
        solid_here = solid[:, x - left : x - left + WIDTH]
        view.cover(0, top, solid_here, view.ground, layer.parallax)
        view.cover(0, top, solid_here, view.identity, NOTHING)
        below = min(end - (top + rows), backdrop.GROUND_ROWS - start - rows)
        if below > 0:
            body = tile.crop((column, start + rows, column + WIDTH, start + rows + below))
            view.image.paste(body, (0, top + rows))
        view.ground[max(0, top + rows) :] = layer.parallax
        view.identity[max(0, top + rows) :] = NOTHING

    def _water(self, view: View, layer: Layer, x: int, y: int, light: str, time: int, end: int) -> None:
        """Water with a slightly shaken reflection of what is behind it, and glints."""
        top = round(layer.ground_y) - y
        rows = end - top
        if rows <= 0:
            return
        colour, mask = backdrop.water_tile(layer.name, light, self.scene.weather)
        mirrored = min(rows, top)
        upper = np.asarray(view.image.crop((0, top - mirrored, WIDTH, top)))[::-1]
        lines = np.arange(mirrored)
        shake = np.round(np.sin(lines * 0.9 / SCALE + time * 0.3) * (0.5 + lines * 0.05) * SCALE).astype(int)
        shaken = np.empty_like(upper)
        margin = int(abs(shake).max(initial=0))
        wide = np.pad(upper, ((0, 0), (margin, margin), (0, 0)), "edge")
        for line, by in enumerate(shake):
            shaken[line] = wide[line, margin + by : margin + by + WIDTH]
        view.image.paste(Image.fromarray(shaken), (0, top))
        column = (x + self.scene.seed) % backdrop.TILE
        box = (column, 0, column + WIDTH, rows)
        view.image.paste(colour.crop(box), (0, top), mask.crop(box))
        one, other = ((column + turn * time // 3) % backdrop.TILE for turn in (1, -1))
        sparkle = ImageChops.multiply(
            backdrop.glints(0).crop((one, 0, one + WIDTH, rows)),
            backdrop.glints(1).crop((other, 0, other + WIDTH, rows)),
        )
        shine = tuple(int(min(255, v * 1.1 + 24)) for v in sky_colours(light, self.scene.weather)[2])
        view.image.paste(shine, (0, top, WIDTH, top + rows), sparkle)
        view.ground[top:], view.identity[top:] = layer.parallax, NOTHING

    def _thing(self, view: View, layer: Layer, thing: Thing, x: int, y: int, light: str, time: int) -> None:
        middle, foot = thing.x - x, thing.base - y
        if foot - 1.2 * thing.height > HEIGHT:
            return
        kind = KIND[thing.kind]
        frame = (time // kind.pace + thing.seed) % kind.frames
        foot += _bob(thing, time)
        sprite, rgb = self._sprite(thing, frame, light)
        left, top = middle + sprite.left, foot + sprite.top
        view.image.paste(rgb, (left, top), sprite.mask)
        view.cover(left, top, sprite.solid, view.identity, thing.identity)
        if thing.kind == "mill":
            self._blades(view, layer, thing, middle, foot, light, time)
        if thing.kind in FLAMES and GLOWING[light]:
            height, reach = (round(v * thing.size) for v in FLAMES[thing.kind])
            at = (middle - reach, foot - height - reach)
            view.image.paste(WARM, (*at, at[0] + 2 * reach, at[1] + 2 * reach), halo(reach))
        if thing.kind == "house":
            mask, dx, dy = smoke(max(1, round(10 * thing.size)), (time + thing.seed) % SMOKE_PHASES)
            pale = tuple(curve(layer.name, light, self.scene.weather)[256 * i + 226] for i in range(3))
            at = (middle + round(thing.facing * 18.5 * thing.size) + dx, foot - round(82 * thing.size) + dy)
            view.image.paste(pale, (*at, at[0] + mask.width, at[1] + mask.height), mask)

    def _blades(self, view: View, layer: Layer, thing: Thing, x: int, foot: int, light: str, time: int) -> None:
        phase = (time + thing.seed) % BLADE_PHASES
        wheel = blades(max(1, round(10 * thing.size)), phase)
        left, top = x + wheel.left, foot - round(HUB * thing.size) + wheel.top
        key = (thing.identity, -1 - phase, light)
        if key not in self.lit:
            self.lit[key] = wheel.rgb.point(curve(layer.name, light, self.scene.weather))
        view.image.paste(self.lit[key], (left, top), wheel.mask)
        view.cover(left, top, wheel.solid, view.identity, thing.identity)

    def _sprite(self, thing: Thing, frame: int, light: str) -> tuple[Sprite, Image.Image]:
        key = (thing.identity, frame)
        if key not in self.sprites:
            self.sprites[key] = sprite_of(thing, frame, self.scene.ground == "snow")
        sprite = self.sprites[key]
        if (*key, light) not in self.lit:
            rgb = sprite.rgb.point(curve(thing.layer, light, self.scene.weather))
            if GLOWING[light]:
                rgb.paste(WARM, (0, 0), sprite.glow.point([round(v * GLOWING[light]) for v in range(256)]))
            self.lit[*key, light] = rgb
        return sprite, self.lit[*key, light]

    def _fog(self, view: View, camera: np.ndarray, light: str, time: int) -> None:
        colour = tuple(int(v) for v in sky_colours(light, "fog")[2])
        first = round(80 * SCALE)
        for which, pace in ((0, 0.8), (1, -0.5)):
            left = round(0.85 * camera[0] + pace * SCALE * time + self.scene.seed) % backdrop.TILE
            mask = backdrop.fog_bank(which).crop((left, first, left + WIDTH, HEIGHT))
            view.image.paste(colour, (0, first, WIDTH, HEIGHT), mask)

    def _falling(self, view: View, camera: np.ndarray, light: str, time: int) -> None:
        rain = self.scene.weather == "rain"
        colour = tuple(int(v) for v in np.minimum(255, sky_colours(light, "clear")[2] * 0.5 + (118 if rain else 128)))
        masks = []
        for depth in (0, 1):
            pace, parallax = ((15, 21) if rain else (2, 3))[depth] * SCALE, (0.7, 1.2)[depth]
            sway = -0.22 * pace * time if rain else 6 * SCALE * np.sin(time / 14 + depth)
            left = round(parallax * camera[0] - sway) % backdrop.TILE
            top = round(parallax * camera[1] - pace * time) % backdrop.FALL_ROWS
            masks.append(backdrop.falling(self.scene.weather, depth).crop((left, top, left + WIDTH, top + HEIGHT)))
        view.image.paste(colour, (0, 0, WIDTH, HEIGHT), ImageChops.lighter(*masks))


def _bob(thing: Thing, time: int) -> int:
    """The vertical motion of boats and balloons, pixels."""
    if thing.kind == AFLOAT:
        return int(round(1.6 * thing.size * math.sin(time / 7 + thing.seed)))
    return round(4 * thing.size * math.sin(time / 19 + thing.seed)) if thing.kind == ALOFT else 0


def render_views(clip: Clip) -> dict[str, np.ndarray]:
    """The camera's view at the end of each latent frame: views uint8 (F, H, W, 3), parallax float16 (F, H, W) of the
    visible surface, identity int16 (F, H, W) of the visible thing or NOTHING."""
    frames, last, painter = len(clip.offsets), PICTURES_PER_LATENT - 1, Painter(clip.scene)
    views = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
    parallax = np.empty((frames, HEIGHT, WIDTH), np.float16)
    identity = np.empty((frames, HEIGHT, WIDTH), np.int16)
    for frame in range(frames):
        view = _view(painter, clip, PICTURES_PER_LATENT * frame + last)
        views[frame], parallax[frame], identity[frame] = np.asarray(view.image), painter.parallax(view), view.identity
    return {"views": views, "parallax": parallax, "identity": identity}


def render_pictures(clip: Clip) -> np.ndarray:
    """All pictures of the clip, uint8 (4F, H, W, 3); every fourth is a view of ``render_views``."""
    pictures, painter = (
        np.empty((PICTURES_PER_LATENT * len(clip.offsets), HEIGHT, WIDTH, 3), np.uint8),
        Painter(clip.scene),
    )
    for time in range(len(pictures)):
        pictures[time] = np.asarray(_view(painter, clip, time).image)
    return pictures


def _view(painter: Painter, clip: Clip, time: int) -> View:
    """Picture ``time`` of the clip; while the light changes, a blend of both lights."""
    camera, (before, light, share) = clip.camera_at(time), clip.light_at(time)
    view = painter.view(camera, light, time)
    if share < 1:
        view.image = Image.blend(painter.view(camera, before, time).image, view.image, share)
    return view
