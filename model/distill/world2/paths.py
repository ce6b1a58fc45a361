"""The camera's path and the changes of light: a clip is a tour through a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.distill.world2.scene import Scene, random_scene
from model.distill.world2.size import (
    CHUNK_LATENTS,
    HIGHEST,
    LOWEST,
    MAX_ACCELERATION,
    MAX_RISE,
    MAX_SPEED,
    PICTURES_PER_CHUNK,
    PICTURES_PER_LATENT,
    REACH,
    WIDTH,
)
from model.words.vocabulary2 import LIGHTS

CUT_SHARE, HOLD_SHARE, RETURN_SHARE, RISE_SHARE = 0.07, 0.12, 0.6, 0.3
FAR = 1.1 * WIDTH  # pixels: a place this far away is out of view
TURN_PICTURES = 2 * PICTURES_PER_CHUNK  # duration of a change of light
NEXT_LIGHT = {"morning": "day", "day": "sunset", "sunset": "night", "night": "morning"}


@dataclass(frozen=True)
class Clip:
    """A tour of F latent frames.

    offsets: (F, 2) camera x and y in pixels at the end of each latent frame, which is its last picture
    speeds: (F, 2) pixels a picture; picture p of 4 stands at offset - (3 - p) * speed
    lights: (first picture, light), rising; a change takes TURN_PICTURES from there
    """

    scene: Scene
    lights: tuple[tuple[int, str], ...]
    offsets: np.ndarray
    speeds: np.ndarray

    @property
    def chunks(self) -> int:
        return len(self.offsets) // CHUNK_LATENTS

    def camera_at(self, picture: int) -> np.ndarray:
        """Camera (x, y) at a picture of the clip."""
        latent, part = divmod(picture, PICTURES_PER_LATENT)
        at: np.ndarray = self.offsets[latent] - (PICTURES_PER_LATENT - 1 - part) * self.speeds[latent]
        return at

    def light_at(self, picture: int) -> tuple[str, str, float]:
        """(previous light, light, progress of the change, 0 to 1)."""
        index = [i for i, (first, _) in enumerate(self.lights) if first <= picture][-1]
        first, light = self.lights[index]
        if index == 0:
            return light, light, 1.0
        return self.lights[index - 1][1], light, min(1.0, (picture - first + 1) / TURN_PICTURES)


def random_clip(rng: np.random.Generator, chunks: int) -> Clip:
    scene = random_scene(rng)
    offsets, speeds = random_tour(rng, chunks)
    return Clip(scene, random_lights(rng, chunks), offsets, speeds)


def random_lights(rng: np.random.Generator, chunks: int) -> tuple[tuple[int, str], ...]:
    """One light, or sometimes a change to the next time of day during the clip."""
    light = str(rng.choice(LIGHTS, p=(0.22, 0.36, 0.2, 0.22)))
    if chunks < 4 or rng.random() < 0.65:
        return ((0, light),)
    start = int(rng.integers(1, chunks - 1))
    return (0, light), (start * PICTURES_PER_CHUNK, NEXT_LIGHT[light])


@dataclass
class _Camera:
    """Moves latent frame by latent frame, with ramped speeds, inside the allowed range."""

    place: np.ndarray
    speed: np.ndarray

    def walk(self, wanted: np.ndarray) -> None:
        limit = np.array([MAX_ACCELERATION, MAX_RISE])
        self.speed = self.speed + np.clip(wanted - self.speed, -limit, limit)
        low, high = np.array([-REACH, HIGHEST]), np.array([REACH, LOWEST])
        room = (np.clip(self.place + PICTURES_PER_LATENT * self.speed, low, high) - self.place) / PICTURES_PER_LATENT
        self.speed = np.trunc(room)
        self.place = self.place + PICTURES_PER_LATENT * self.speed


def random_tour(rng: np.random.Generator, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and speeds, (F, 2) each: pans at any speed towards goals that are often distant places seen before,
    stops, cuts, and sometimes a small rise or fall."""
    camera = _Camera(np.zeros(2), np.zeros(2))
    style = str(rng.choice(("tour", "return", "stay"), p=(0.75, 0.13, 0.12)))
    goal, visited, pace = _goal(rng, 0.0, [0.0]), [0.0], _pace(rng)
    offsets, speeds = [], []
    for chunk in range(chunks):
        wanted = np.zeros(2)
        if style == "tour" and chunk > 1 and rng.random() < CUT_SHARE:
            goal = _goal(rng, camera.place[0], visited)
            camera = _Camera(np.array([round(goal), camera.place[1]]), np.zeros(2))
        elif style == "return":
            wanted[0] = pace if chunk < chunks // 2 else -pace
        elif style == "stay":
            wanted[0] = pace // 6
        elif rng.random() > HOLD_SHARE:
            wanted[0] = _towards(goal - camera.place[0], _pace(rng))
        if rng.random() < RISE_SHARE:
            wanted[1] = rng.integers(-MAX_RISE, MAX_RISE + 1)
        for _ in range(CHUNK_LATENTS):
            camera.walk(wanted)
            offsets.append(camera.place)
            speeds.append(camera.speed)
        visited.append(float(camera.place[0]))
        if abs(goal - camera.place[0]) < WIDTH / 4:
            goal = _goal(rng, camera.place[0], visited)
    return np.array(offsets), np.array(speeds)


def _goal(rng: np.random.Generator, here: float, visited: list[float]) -> float:
    far = [place for place in visited if abs(place - here) > FAR]
    if far and rng.random() < RETURN_SHARE:
        return float(rng.choice(far)) + int(rng.integers(-40, 41))
    side = -np.sign(here) if abs(here) > REACH / 2 else rng.choice((-1, 1))
    return float(np.clip(here + side * rng.uniform(0.7, 2.4) * WIDTH, -REACH, REACH))


def _pace(rng: np.random.Generator) -> int:
    """Pixels per picture, in either direction, slow or fast."""
    return int(rng.choice((-1, 1))) * int(rng.integers(MAX_SPEED // 10, MAX_SPEED + 1))


def _towards(distance: float, pace: int) -> float:
    """The speed of a chunk that moves there at ``pace`` without passing it."""
    return float(np.sign(distance)) * min(abs(pace), max(1, abs(int(distance)) // PICTURES_PER_CHUNK))
