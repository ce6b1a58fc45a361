"""What a prompt of the second world says: light, weather, ground, and things with colors, places and distances. No
torch."""

from __future__ import annotations

from model.words.reading import Description, Grammar, Thing
from model.words.vocabulary2 import ACCENTED, COLOURS, DISTANCES, GROUNDS, KINDS, LEXICON, LIGHTS, PLACES, WEATHERS

GRAMMAR = Grammar(LEXICON, KINDS, COLOURS, LIGHTS, GROUNDS, PLACES, WEATHERS, DISTANCES, roofed=ACCENTED)
describe, names_anew = GRAMMAR.describe, GRAMMAR.names_anew
__all__ = ["GRAMMAR", "Description", "Thing", "describe", "names_anew"]
