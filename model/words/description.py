"""What a prompt says. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ATTRIBUTES = ("colour", "accent", "place", "distance")


@dataclass
class Thing:
    """A thing as one phrase describes it; None: not mentioned. other: the word that calls it another
    one, as in "another mill" and "a second mill"."""

    kind: str
    colour: str | None = None
    accent: str | None = None
    place: str | None = None
    distance: str | None = None
    other: str | None = field(default=None, compare=False)

    @property
    def details(self) -> int:
        """How many attributes are mentioned."""
        return sum(getattr(self, name) is not None for name in ATTRIBUTES)

    def fits(self, known: Thing) -> bool:
        """Whether this thing asks for nothing that ``known`` did not ask for; attributes that are not mentioned match
        anything."""
        same = all(getattr(self, name) in (None, getattr(known, name)) for name in ATTRIBUTES)
        return self.kind == known.kind and same


def beyond_the_known(things: Sequence[Thing]) -> set[int]:
    """Which of a prompt's things are others than those known before it: "another mill", but not in "a mill and another
    mill", where it is another than the first."""
    kinds: set[str] = set()
    found = set()
    for at, thing in enumerate(things):
        if thing.other and thing.kind not in kinds:
            found.add(at)
        else:
            kinds.add(thing.kind)
    return found


@dataclass
class Description:
    """Everything that a prompt says. ``later`` is the light that the present one turns into; ``ignored`` are
    sentences about known words that are not drawn as they stand, such as the color of no thing."""

    light: str | None = None
    ground: str | None = None
    things: list[Thing] = field(default_factory=list)
    weather: str | None = None
    later: str | None = None
    ignored: list[str] = field(default_factory=list, compare=False)
