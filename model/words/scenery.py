"""What a stream says of the chunk that is to be drawn: things while their place is in view, and at places that were
never in view what the seed chooses for them. No torch.

A student that nobody tells what stands at a new place draws a mixture of all that could (docs/log.md), and one that is
told of a thing far away draws it again at the new place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from model.words.grammar import IN_SIGHT, describe
from model.words.reading import Thing
from model.words.unnamed import STEADY, STEADY_ROOFS, chosen, spoken
from model.words.vocabulary import KINDS, ROOFED

FIRST_PLACE, PLACE_SPACING = 48, 80  # pixels; landmarks are only at these places, three of them in the first picture
MOST = 2  # new places that one chunk is told of
LOOK_AHEAD = 2  # chunks


@dataclass(frozen=True)
class View:
    """What the camera sees during a chunk, in pixels: its left edge at the beginning and at the end, and the picture's
    width. jumped: it was cut here."""

    begin: int
    end: int
    width: int
    jumped: bool = False

    def shows(self, place: int) -> bool:
        """Whether the middle of ``place`` is in view at the end."""
        return 0 <= _column(place) - self.end < self.width

    @property
    def shown(self) -> frozenset[int]:
        """The places in view at the end."""
        return frozenset(filter(self.shows, _places(self.end, self.end + self.width)))

    @property
    def coming(self) -> list[int]:
        """The places that come into view during this chunk and the next, the nearest first; none if the camera
        rests."""
        step = LOOK_AHEAD * (self.end - self.begin)
        if step > 0:
            return _places(self.begin + self.width, self.begin + self.width + step)
        return _places(self.begin + step, self.begin)[::-1]


def told_here(told: str, seed: int, view: View, named_at: int, seen: frozenset[int]) -> str:
    """The words of one chunk. ``told``: the stream's complete prompt, whose places are those of the view at
    ``named_at`` (pixels). ``seen``: places that were in view before. In fog nothing is to be seen."""
    said = describe(told)
    if said.weather:
        return told
    near = abs(view.begin - named_at) < view.width
    things = [thing for thing in said.things if near or thing.place in (None, "ahead")]
    if view.jumped and not things:
        here = [place for place in _places(view.begin, view.begin + view.width) if place not in seen]
        things = [replace(scenery(seed, place), place=third(_column(place) - view.begin, view.width)) for place in here]
    elif not any(thing.place == "ahead" for thing in things):
        new = [place for place in view.coming if place not in seen][:MOST]
        things += [scenery(seed, place) for place in new]
    return told if things == said.things else spoken(replace(said, things=things))


def shown(told: str, view: View) -> frozenset[int]:
    """The places that a chunk has shown; none in fog."""
    return frozenset() if describe(told).weather else view.shown


def scenery(seed: int, place: int) -> Thing:
    """The thing that stands at ``place`` if no prompt says: at every place one, since a student that is told of none
    draws a faint one."""
    kind = chosen(KINDS, seed, "kind", place)
    colour = chosen(STEADY, seed, "colour", place)
    roofs = [each for each in STEADY_ROOFS if each != colour]
    return Thing(kind, colour, chosen(roofs, seed, "accent", place) if kind in ROOFED else None, "ahead")


def third(column: float, width: int) -> str:
    """The place of a picture's ``column`` in the words of a prompt."""
    return IN_SIGHT[min(2, int(3 * column / width))]


def _column(place: int) -> int:
    return FIRST_PLACE + PLACE_SPACING * place


def _places(low: int, high: int) -> list[int]:
    """The places with their middles in [low, high) pixels."""
    first = -((FIRST_PLACE - low) // PLACE_SPACING)
    return [place for place in range(first, first + (high - low) // PLACE_SPACING + 2) if low <= _column(place) < high]
