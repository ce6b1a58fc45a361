"""The camera of a session: integer world pixels, ramped speeds, cuts; and the prompt phrases that steer it.

This module imports no torch: the front validates controls with it. The stream and the training world use the same
motion.

Pixels are camera pixels (ModelSpec.view_width): a codec that draws in more detail makes several of each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

MAX_SPEED = 16  # pixels per picture
SPEED_STEP = 4  # speeds are multiples of this: the model was trained on this grid, to save training time
PLACE_STEP = 16  # pixels; the grid of cut targets
MAX_ACCELERATION = 8  # pixels per picture, gained or lost per latent frame
DEFAULT_SPEED = 8
SLOW_SPEED = 4
FAST_SPEED = 16
MAX_PLACE = 1000.0  # screens; farther cuts are refused
MAX_RISE = 4  # pixels per picture, up or down, for a camera that can rise


@dataclass(frozen=True)
class CameraLimits:
    """What a model's camera can do, in pixels; speeds in pixels per picture.

    full_speed: the speed that the model receives as 1. acceleration: change of speed per latent frame. lowest, highest:
    the range of heights relative to the start; if it is empty, the camera only pans.
    """

    full_speed: int = MAX_SPEED
    acceleration: int = MAX_ACCELERATION
    lowest: int = 0
    highest: int = 0

    @property
    def rises(self) -> bool:
        """Whether the camera can change its height."""
        return self.lowest < self.highest


PANS = CameraLimits()


class CameraError(ValueError):
    """A camera control that is out of range; the message names the field and the allowed values."""


@dataclass(frozen=True)
class CameraControl:
    """A camera command that takes effect with the next chunk.

    speed: pixels per picture, a multiple of SPEED_STEP, positive to the right; 0 stops; None keeps the present speed.
    cut_to: where to jump, in screens from the session's starting point; None does not jump. rise: pixels per picture,
    positive upwards; 0 keeps the height; None changes nothing.
    """

    speed: int | None = None
    cut_to: float | None = None
    rise: int | None = None

    def __post_init__(self) -> None:
        if self.speed is not None and not (-MAX_SPEED <= self.speed <= MAX_SPEED and self.speed % SPEED_STEP == 0):
            allowed = f"multiples of {SPEED_STEP} from -{MAX_SPEED} to {MAX_SPEED}"
            raise CameraError(f"camera speed is {self.speed}; allowed are {allowed} (pixels per picture)")
        if self.cut_to is not None and not -MAX_PLACE <= self.cut_to <= MAX_PLACE:
            raise CameraError(f"camera cut_to is {self.cut_to}; allowed is -{MAX_PLACE:g} to {MAX_PLACE:g} screens")
        if self.rise is not None and not -MAX_RISE <= self.rise <= MAX_RISE:
            raise CameraError(f"camera rise is {self.rise}; allowed is -{MAX_RISE} to {MAX_RISE} (pixels per picture)")


@dataclass(frozen=True)
class CameraState:
    """The camera's position (pixels to the right of and above the session's start), speeds and target speeds.
    ``jumped``: the camera was cut here and has shown nothing yet."""

    offset: int = 0
    speed: int = 0
    target: int = 0
    height: int = 0
    rise: int = 0
    rise_target: int = 0
    jumped: bool = False

    @classmethod
    def of(cls, numbers: Sequence[int]) -> CameraState:
        """The state that ``numbers`` encode; missing ones at the end are 0."""
        names = [field.name for field in fields(cls)]
        state = cls(**dict(zip(names, numbers, strict=False)))  # type: ignore[arg-type]
        return replace(state, jumped=bool(state.jumped))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The state as numbers, for messages."""
        return tuple(int(value) for value in astuple(self))

    def steered(self, control: CameraControl, screen: int) -> CameraState:
        """The state after ``control``; ``screen`` is the picture's width in pixels. After a cut the camera is at
        rest."""
        state = self
        if control.cut_to is not None:
            place = PLACE_STEP * round(control.cut_to * screen / PLACE_STEP)
            state = CameraState(offset=place, height=self.height, jumped=True)
        if control.speed is not None:
            state = replace(state, target=control.speed)
        if control.rise is not None:
            state = replace(state, rise_target=control.rise)
        return state

    def next_latent(self, pictures: int, limits: CameraLimits) -> CameraState:
        """Ramp the speeds for the next latent frame of ``pictures`` pictures; the position does not change yet."""
        ramp, rise = limits.acceleration, max(-MAX_RISE, min(MAX_RISE, self.rise_target))
        height = max(limits.lowest, min(limits.highest, self.height + pictures * rise))
        return replace(
            self,
            speed=self.speed + max(-ramp, min(ramp, self.target - self.speed)),
            rise=int((height - self.height) / pictures),
        )

    def moved(self, pictures: int) -> CameraState:
        """The state after ``pictures`` pictures at the present speeds."""
        place = {"offset": self.offset + pictures * self.speed, "height": self.height + pictures * self.rise}
        return replace(self, **place, jumped=False)


def walk(
    state: CameraState, latents: int, pictures_per_latent: int = 4, limits: CameraLimits = PANS
) -> tuple[CameraState, list[CameraState]]:
    """Advance by ``latents`` latent frames: the state after them, and the state at the beginning of each.

    Picture p of a latent frame is p steps of its speeds from the frame's beginning.
    """
    begins = []
    for _ in range(latents):
        begins.append(state.next_latent(pictures_per_latent, limits))
        state = begins[-1].moved(pictures_per_latent)
    return state, begins


def advance(state: CameraState, latents: int, pictures_per_latent: int = 4) -> tuple[CameraState, list[int], list[int]]:
    """``walk`` for a camera that only pans: the state afterwards, and for each latent frame the offset of its first
    picture and its speed."""
    state, begins = walk(state, latents, pictures_per_latent)
    return state, [begin.offset for begin in begins], [begin.speed for begin in begins]


def follow(controls: Sequence[CameraControl], width: int, latents: int) -> tuple[list[int], list[int]]:
    """A camera that starts at 0 and obeys each of ``controls`` for ``latents`` latent frames; ``width`` is the view's.
    Returns for each latent frame the offset of its first picture and its speed."""
    state, offsets, speeds = CameraState(), list[int](), list[int]()
    for control in controls:
        state, begun, taken = advance(state.steered(control, width), latents)
        offsets, speeds = offsets + begun, speeds + taken
    return offsets, speeds


def view_offset(offset: int, speed: int, pictures_per_latent: int = 4) -> int:
    """The offset of a latent frame's view: where the camera is at the end of its pictures."""
    return offset + pictures_per_latent * speed


_VERB = (
    r"(?:pan(?:s|ning)?|mov(?:e|es|ing)|turn(?:s|ing)?|look(?:s|ing)?|glid(?:e|es|ing)|travel(?:s|ling|ing)?"
    r"|go(?:es|ing)?)"
)
_PACE = r"(?:\s+(?P<{0}>slowly|gently|fast|quickly))?"
_MOVE = re.compile(
    rf"\b(?:camera|{_VERB}){_PACE.format('before')}(?:\s+back)?(?:\s+from\s+(?:the\s+)?(?:left|right))?\s+(?:to\s+(?:the\s+)?)?(?P<side>left|right)\b{_PACE.format('after')}",
    re.I,
)
_HOLD = re.compile(
    r"\b(?:camera\s+)?(?:holds?(?:\s+still)?|stands?\s+still|stays?|stops?|is\s+still|static\s+camera)\b", re.I
)
_NEVER = r"(?:(?:can|could|do|does|did|is|must|should|will|wo)\s*n['’o]?t|cannot|not|never|without)"
_ON = rf"\b{_NEVER}\s+(?:hold(?:s|ing)?|stand(?:s|ing)?|stay(?:s|ing)?|stop(?:s|ping)?)\b"
_STILL = (
    rf"\b{_NEVER}\s+(?:be\s+)?{_VERB}\b(?:\s+(?:slowly|gently|fast|quickly|back|at\s+all))*"
    r"(?:\s+(?:to\s+the\s+)?(?:left|right))?"
)
_PHRASE = re.compile(rf"(?P<on>{_ON})|(?P<still>{_STILL}|{_HOLD.pattern})|(?P<move>{_MOVE.pattern})", re.I)
_THEN = re.compile(  # "then the camera", if nothing but the motion follows in its clause
    rf"\b(?:then|later)\s+(?:(?:the|it|we|camera|slowly|gently)\s+)*(?:{_PHRASE.pattern})(?=\s*(?:[,.;:!?&+|\n]|and\b|$))",
    re.I,
)
_PACES = {"slowly": SLOW_SPEED, "gently": SLOW_SPEED, "fast": FAST_SPEED, "quickly": FAST_SPEED}


def camera_from_prompt(prompt: str) -> CameraControl | None:
    """The control that the prompt asks for ("the camera pans slowly left", "does not move"), or None. The first
    motion counts, and any motion goes before rest."""
    found = [each for each in _PHRASE.finditer(prompt) if not each["on"]]
    if moves := [each for each in found if each["move"]]:
        pace = (moves[0]["before"] or moves[0]["after"] or "").lower()
        speed = _PACES.get(pace, DEFAULT_SPEED)
        return CameraControl(speed=-speed if moves[0]["side"].lower() == "left" else speed)
    return CameraControl(speed=0) if found else None


def without_camera(prompt: str) -> str:
    """The prompt without its camera phrases, so that neither "pans right" nor "then pans right" is read as a place.
    "Never stops" asks for nothing and stays."""
    for phrase in (_THEN, _PHRASE):
        prompt = phrase.sub(lambda found: found[0] if found["on"] else " ", prompt)
    return prompt
