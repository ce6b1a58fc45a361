"""Scenes: a stretch of world with its ground, its weather and the things on its four layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from model.distill.world2.catalogue import AFLOAT, ALOFT, KIND, NEAR_KINDS, accented
from model.distill.world2.size import HEIGHT, HIGHEST, LAYER, LAYERS, LOWEST, REACH, SCALE, WIDTH, Layer
from model.words.vocabulary2 import COLOURS, GROUNDS, WEATHERS

WATER_GROUNDS = {"lake": ("mid",), "seashore": ("far", "mid")}  # layers that are water on this ground
GROUND_WEIGHTS = (0.28, 0.16, 0.18, 0.2, 0.18)
WEATHER_WEIGHTS = (0.42, 0.2, 0.13, 0.12, 0.13)
SUITED = 0.55  # share of things in a color that suits their kind
GAPS = {"far": (30, 190), "mid": (30, 200), "main": (16, 190), "near": (200, 720)}  # units between neighbors
AFLOAT_GAP = 1.7  # factor on the gaps between things on water
NEAR_SIZE = {"bush": 1.0, "fence": 1.0, "lamp": 1.35, "cactus": 1.1, "tree": 1.3, "palm": 1.5}


@dataclass(frozen=True)
class Thing:
    """identity: a unique number in the scene, higher for things painted later; x, base: pixels of its layer, the middle
    of its foot when the camera is at (0, 0); size: factor on the kind's measures; facing: 1 or -1; seed: of its
    drawing."""

    identity: int
    kind: str
    colour: str
    accent: str | None
    layer: str
    x: int
    base: int
    size: float
    facing: int
    seed: int

    @property
    def width(self) -> float:
        return KIND[self.kind].width * self.size

    @property
    def height(self) -> float:
        return KIND[self.kind].height * self.size


@dataclass(frozen=True)
class Scene:
    """Layers have things wherever the camera may go; ``waves`` are the (amplitude, length, phase) of its skyline."""

    seed: int
    ground: str
    weather: str
    things: tuple[Thing, ...]
    waves: tuple[tuple[float, float, float], ...]

    def water(self, layer: str) -> bool:
        return layer in WATER_GROUNDS.get(self.ground, ())


def random_scene(rng: np.random.Generator, ground: str | None = None, weather: str | None = None) -> Scene:
    ground = ground or str(rng.choice(GROUNDS, p=GROUND_WEIGHTS))
    if weather is None:
        weather = str(rng.choice(WEATHERS, p=WEATHER_WEIGHTS))
        if ground == "desert" and weather == "snowfall":
            weather = "clear"
        if ground == "snow" and weather == "rain":
            weather = "snowfall"
    waves = tuple(
        (a * float(rng.uniform(0.5, 1.2)), length * float(rng.uniform(0.8, 1.25)), float(rng.uniform(0, 2 * np.pi)))
        for a, length in ((0.6, 520.0), (0.3, 210.0), (0.12, 83.0))
    )
    things: list[Thing] = []
    for layer in LAYERS:
        things += _things_on(rng, layer, ground, len(things))
    return Scene(int(rng.integers(1 << 30)), ground, weather, tuple(things), waves)


def layer_range(layer: Layer) -> tuple[int, int]:
    """The columns of a layer, in pixels, that any allowed camera can see, with a margin."""
    margin = 160 * SCALE
    return int(-REACH * layer.parallax - margin), int(REACH * layer.parallax + WIDTH + margin)


def skyline(scene: Scene, layer: Layer, xs: np.ndarray) -> np.ndarray:
    """The row where the layer's ground begins in columns ``xs``, for a camera at height 0."""
    if scene.water(layer.name):
        return np.full(len(xs), layer.ground_y)
    turn = layer.parallax * 9.1  # every layer undulates differently
    rise = np.zeros(len(xs))
    for high, length, phase in scene.waves:
        rise += high * np.sin(2 * np.pi * xs / (SCALE * length) + phase + turn)
    return layer.ground_y - layer.waviness * SCALE * rise


def _things_on(rng: np.random.Generator, layer: Layer, ground: str, first: int) -> list[Thing]:
    left, right = layer_range(layer)
    low, high = (gap * (AFLOAT_GAP if layer.name in WATER_GROUNDS.get(ground, ()) else 1) for gap in GAPS[layer.name])
    things: list[Thing] = []
    x = left + rng.uniform(0, high) * SCALE * layer.scale
    while x < right:
        thing = _random_thing(rng, layer, ground, first + len(things), x)
        things.append(thing)
        x = thing.x + thing.width / 2 + rng.uniform(low, high) * SCALE * (1 if layer.name == "near" else layer.scale)
    painted = sorted(things, key=lambda thing: thing.base)
    return [replace(thing, identity=first + rank) for rank, thing in enumerate(painted)]


def _random_thing(rng: np.random.Generator, layer: Layer, ground: str, identity: int, x: float) -> Thing:
    kind = _random_kind(rng, layer, ground)
    size = SCALE * layer.scale * float(rng.uniform(0.78, 1.22)) * (NEAR_SIZE[kind] if layer.name == "near" else 1)
    favourites = KIND[kind].favourites
    suited = favourites and rng.random() < SUITED
    colour = str(rng.choice(favourites if suited else COLOURS))
    accent = str(rng.choice([c for c in COLOURS if c != colour])) if accented(kind) else None
    base = layer.ground_y + SCALE * layer.scale * float(rng.uniform(7, 24))
    if kind == ALOFT:
        base = SCALE * float(rng.uniform(60, 120))
    elif layer.name == "near":
        base = layer.ground_y + SCALE * float(rng.uniform(18, 34))
    middle = x + KIND[kind].width * size / 2
    facing = int(rng.choice((-1, 1)))
    return Thing(
        identity, kind, colour, accent, layer.name, round(middle), round(base), size, facing, int(rng.integers(1 << 30))
    )


def _random_kind(rng: np.random.Generator, layer: Layer, ground: str) -> str:
    if layer.name == "near":
        return str(rng.choice(NEAR_KINDS[ground]))
    if layer.name in WATER_GROUNDS.get(ground, ()):
        return (
            AFLOAT if layer.name == "mid" or rng.random() < 0.5 else str(rng.choice(("lighthouse", "castle", "palm")))
        )
    kinds = [kind for kind in KIND if layer.name in KIND[kind].depths and kind != AFLOAT]
    weights = np.array([KIND[kind].weight_on(ground) for kind in kinds])
    return str(rng.choice(kinds, p=weights / weights.sum()))


def place_on_screen(thing: Thing, offset: np.ndarray) -> tuple[float, float]:
    """The picture column and row of the thing's foot for a camera at ``offset`` (x, y)."""
    parallax = LAYER[thing.layer].parallax
    return thing.x - round(parallax * offset[0]), thing.base - round(parallax * offset[1])


def on_screen(thing: Thing, offset: np.ndarray) -> bool:
    x, y = place_on_screen(thing, offset)
    return -thing.width / 2 < x < WIDTH + thing.width / 2 and 0 < y < HEIGHT + thing.height


assert HIGHEST < 0 < LOWEST
