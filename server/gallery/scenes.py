"""The gallery's starting points: example prompts with seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from model.camera import camera_from_prompt
from model.spec import ModelSpec
from model.words.vocabularies import words_of

SEED = 7
SPEED = 4  # pixels per picture, if the prompt does not move the camera
OPEN_VOCABULARY = (
    "a lighthouse on a cliff at sunset, waves breaking below, a slow aerial shot",
    "a steam train crossing a stone viaduct in a snowy valley, seen from a hill",
    "a fox walking through a misty pine forest in the morning, soft light",
    "a busy night market in the rain, neon reflections on the street",
)


@dataclass(frozen=True)
class Scene:
    """A starting point. ``speed``: camera speed in pixels per picture if the prompt sets none."""

    prompt: str
    seed: int
    speed: int

    def name(self, spec: ModelSpec, digest: str) -> str:
        """Name of its thumbnail, which depends on model, size and weights."""
        about = f"{spec.name} {spec.width}x{spec.height} {digest} {self.seed} {self.speed} {self.prompt}"
        return hashlib.sha256(about.encode()).hexdigest()[:24]


def scenes_of(spec: ModelSpec) -> tuple[Scene, ...]:
    """A model's starting points: its vocabulary's examples, or general ones if its vocabulary is open."""
    words = words_of(spec)
    prompts = OPEN_VOCABULARY if words is None else words.examples
    still = spec.camera is not None
    return tuple(Scene(prompt, SEED, SPEED if still and not camera_from_prompt(prompt) else 0) for prompt in prompts)
