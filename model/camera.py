"""The camera of a session: integer world pixels, a speed that ramps, cuts; and the words that steer it.

No torch: the front process validates controls with this module, the stream and the training world walk the same path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MAX_SPEED = 16  # pixels a picture
SPEED_STEP = 4  # speeds are multiples: the model learned the world on a grid, which two cores can afford
PLACE_STEP = 16  # pixels; a cut lands on this grid
MAX_ACCELERATION = 8  # pixels a picture, gained or lost per latent frame
DEFAULT_SPEED = 8
SLOW_SPEED = 4
FAST_SPEED = 16
MAX_PLACE = 1000.0  # screens; a cut farther than this is refused


class CameraError(ValueError):
    """A camera control that is out of range; the message names the field and what is allowed."""


@dataclass(frozen=True)
class CameraControl:
    """What the camera is asked to do from the next chunk on.

    speed: pixels a picture, a multiple of SPEED_STEP, positive to the right, 0 holds. None keeps the present speed.
    cut_to: place to jump to, in screens from where the session began. None does not jump.
    """

    speed: int | None = None
    cut_to: float | None = None

    def __post_init__(self) -> None:
        if self.speed is not None and not (-MAX_SPEED <= self.speed <= MAX_SPEED and self.speed % SPEED_STEP == 0):
            allowed = f"multiples of {SPEED_STEP} from -{MAX_SPEED} to {MAX_SPEED}"
            raise CameraError(f"camera speed is {self.speed}; allowed are {allowed} (pixels a picture)")
        if self.cut_to is not None and not -MAX_PLACE <= self.cut_to <= MAX_PLACE:
            raise CameraError(f"camera cut_to is {self.cut_to}; allowed is -{MAX_PLACE:g} to {MAX_PLACE:g} screens")


@dataclass(frozen=True)
class CameraState:
    """Where the camera stands (pixels from the session's start), how it moves and where its speed is heading."""

    offset: int = 0
    speed: int = 0
    target: int = 0

    def steered(self, control: CameraControl, screen: int) -> CameraState:
        """The state after ``control``; ``screen`` is the picture's width in pixels. A cut arrives at rest."""
        state = self
        if control.cut_to is not None:
            state = CameraState(offset=PLACE_STEP * round(control.cut_to * screen / PLACE_STEP))
        if control.speed is not None:
            state = replace(state, target=control.speed)
        return state

    def next_latent(self) -> CameraState:
        """Ramp the speed for the next latent frame; the offset is not moved yet."""
        step = max(-MAX_ACCELERATION, min(MAX_ACCELERATION, self.target - self.speed))
        return replace(self, speed=self.speed + step)


def advance(state: CameraState, latents: int, pictures_per_latent: int = 4) -> tuple[CameraState, list[int], list[int]]:
    """Walk ``latents`` latent frames: the state behind them, and each frame's first-picture offset and speed.

    Picture p of a latent frame stands at ``offset + p * speed``.
    """
    offsets, speeds = [], []
    for _ in range(latents):
        state = state.next_latent()
        offsets.append(state.offset)
        speeds.append(state.speed)
        state = replace(state, offset=state.offset + pictures_per_latent * state.speed)
    return state, offsets, speeds


def view_offset(offset: int, speed: int, pictures_per_latent: int = 4) -> int:
    """The place of a latent frame: where the camera stands at the end of its pictures."""
    return offset + pictures_per_latent * speed


_VERB = (
    r"(?:pan(?:s|ning)?|mov(?:e|es|ing)|turn(?:s|ing)?|look(?:s|ing)?|glid(?:e|es|ing)|travel(?:s|ling|ing)?"
    r"|go(?:es|ing)?)"
)
_PACE = r"(?:\s+(?P<{0}>slowly|gently|fast|quickly))?"
_MOVE = re.compile(
    rf"\b{_VERB}{_PACE.format('before')}(?:\s+back)?\s+(?:to\s+the\s+)?(?P<side>left|right)\b{_PACE.format('after')}",
    re.I,
)
_HOLD = re.compile(
    r"\b(?:camera\s+)?(?:holds?(?:\s+still)?|stands?\s+still|stays?|stops?|is\s+still|static\s+camera)\b", re.I
)
_PACES = {"slowly": SLOW_SPEED, "gently": SLOW_SPEED, "fast": FAST_SPEED, "quickly": FAST_SPEED}


def camera_from_prompt(prompt: str) -> CameraControl | None:
    """The control that the prompt's words ask for ("the camera pans slowly left"), or None if it names none."""
    if move := _MOVE.search(prompt):
        pace = (move["before"] or move["after"] or "").lower()
        speed = _PACES.get(pace, DEFAULT_SPEED)
        return CameraControl(speed=-speed if move["side"].lower() == "left" else speed)
    return CameraControl(speed=0) if _HOLD.search(prompt) else None


def without_camera(prompt: str) -> str:
    """The prompt without its camera phrases, so that "pans right" is not read as a place."""
    return _HOLD.sub(" ", _MOVE.sub(" ", prompt))
