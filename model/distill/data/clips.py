"""Clips for training and judging: a random scene, a camera tour through it, and prompts on the way."""

from __future__ import annotations

import numpy as np

from model.camera import MAX_SPEED, SPEED_STEP, CameraControl, CameraState, advance, follow
from model.distill.data.captions import random_segments
from model.distill.data.world import CHUNK_LATENTS, PICTURES_PER_LATENT, WIDTH, Clip, random_scene


def random_tour(rng: np.random.Generator, chunks: int) -> list[CameraControl]:
    """One control per chunk: far returns, stops, cuts. Waypoints are at most three screens from the start."""
    style = rng.choice(["tour", "return", "stay"], p=[0.7, 0.15, 0.15])
    if style == "stay":
        speeds = rng.choice([0, 0, SPEED_STEP, -SPEED_STEP], size=1).repeat(chunks)
        return [CameraControl(speed=int(s)) for s in speeds]
    if style == "return":
        pace, turn = random_pace(rng) * int(rng.choice([-1, 1])), chunks // 2
        return [CameraControl(speed=pace if i < turn else -pace) for i in range(chunks)]
    return _waypoint_tour(rng, chunks)


def _waypoint_tour(rng: np.random.Generator, chunks: int) -> list[CameraControl]:
    state, visited, controls = CameraState(), [0], []
    goal = _next_goal(rng, 0, visited)
    cut_at = int(rng.integers(2, chunks)) if chunks > 2 and rng.random() < 0.2 else -1
    for chunk in range(chunks):
        if chunk == cut_at:
            place = float(rng.choice(visited)) / WIDTH if rng.random() < 0.6 else float(rng.uniform(-2.5, 2.5))
            control = CameraControl(speed=0, cut_to=place)
        else:
            control = CameraControl(speed=_speed_towards(rng, goal - state.offset))
        state, offsets, _ = advance(state.steered(control, WIDTH), CHUNK_LATENTS)
        visited.append(offsets[0])
        if abs(goal - state.offset) < 60:
            goal = _next_goal(rng, state.offset, visited)
        controls.append(control)
    return controls


def _next_goal(rng: np.random.Generator, here: int, visited: list[int]) -> int:
    far = [place for place in visited if abs(place - here) > 0.7 * WIDTH]
    if far and rng.random() < 0.6:
        return int(rng.choice(far))
    return here + int(rng.choice([-1, 1])) * int(rng.integers(int(0.7 * WIDTH), int(2.2 * WIDTH)))


def _speed_towards(rng: np.random.Generator, distance: int) -> int:
    if rng.random() < 0.12:
        return 0
    reach = SPEED_STEP * max(1, abs(distance) // (CHUNK_LATENTS * PICTURES_PER_LATENT * SPEED_STEP))
    return int(np.sign(distance)) * min(random_pace(rng), reach)


def random_pace(rng: np.random.Generator) -> int:
    """A speed of the camera, pixels per picture."""
    return SPEED_STEP * int(rng.integers(1, MAX_SPEED // SPEED_STEP + 1))


def random_clip(rng: np.random.Generator, chunks: int = 8) -> Clip:
    """A random scene with a tour and its prompts."""
    offsets, speeds = follow(random_tour(rng, chunks), WIDTH, CHUNK_LATENTS)
    margin = 64 + PICTURES_PER_LATENT * MAX_SPEED
    scene = random_scene(rng, min(offsets) - margin, max(offsets) + WIDTH + margin)
    return Clip(scene, random_segments(rng, scene, offsets), tuple(offsets), tuple(speeds))
