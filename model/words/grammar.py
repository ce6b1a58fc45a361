"""What a prompt of pafu-mini says: light, ground, fog, and things with their colors and places. No torch."""

from __future__ import annotations

from dataclasses import replace

from model.words.reading import Description, Grammar, Thing
from model.words.vocabulary import COLOURS, GROUNDS, KINDS, LEXICON, LIGHTS, PLACES, ROOFED, WEATHERS

IN_SIGHT = ("left", "middle", "right")  # places of the first picture: one thing each
GRAMMAR = Grammar(LEXICON, KINDS, COLOURS, LIGHTS, GROUNDS, PLACES, WEATHERS, alone=IN_SIGHT, roofed=frozenset(ROOFED))
describe, names_anew = GRAMMAR.describe, GRAMMAR.names_anew
__all__ = ["GRAMMAR", "IN_SIGHT", "Description", "Thing", "arranged", "describe", "names_anew"]


def arranged(said: Description) -> Description:
    """The same description, with a place for each thing that has none, if there are several things: a free one in view,
    and "ahead" for those for which none is left. Otherwise they would be drawn at the same place, and one of them
    lost."""
    free = [place for place in IN_SIGHT if all(thing.place != place for thing in said.things)]
    homeless = [thing for thing in said.things if thing.place is None]
    if len(said.things) < 2 or not homeless:
        return said
    picked = [free[0], free[-1]] if len(homeless) == 2 <= len(free) else free
    homes = {id(thing): picked[at] if at < len(picked) else "ahead" for at, thing in enumerate(homeless)}
    things = [replace(thing, place=thing.place or homes[id(thing)]) for thing in said.things]
    return replace(said, things=things)
