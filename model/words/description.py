"""What a prompt says. No torch."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

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


def recognised(things: Sequence[Thing], known: Sequence[Thing]) -> dict[int, int]:
    """Which of a prompt's things are which of the known ones, by index. Those that say most of themselves choose first,
    and of several that fit take the one that was named at the same place in the prompt, or near it.

    Others than the known ones are new, all of them, except under the prompt that has added them: then each known one
    that it added is called another one by the same word.
    """
    strangers = beyond_the_known(things)
    found = _fitting(things, known, strangers)
    added = sum(thing.other is not None for thing in known)
    if strangers <= found.keys() and len(strangers) == added:
        return found
    return _fitting(things, [replace(thing, other=None) for thing in known], strangers)


def _fitting(things: Sequence[Thing], known: Sequence[Thing], strangers: Set[int]) -> dict[int, int]:
    free, found = set(range(len(known))), dict[int, int]()
    for place in sorted(range(len(things)), key=lambda place: -things[place].details):
        thing, new = things[place], place in strangers
        fits = [at for at in free if thing.fits(known[at]) and (not new or known[at].other == thing.other)]
        if fits:
            found[place] = min(fits, key=lambda at: (abs(at - place), at))
            free.remove(found[place])
    return found


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
