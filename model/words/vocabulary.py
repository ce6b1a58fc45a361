"""pafu-mini's vocabulary: synonyms map to a small set of canonical words. No torch."""

from __future__ import annotations

from model.words.lexicon import Lexicon, folded

KINDS = ("house", "tree", "pine", "tower", "mill")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
LIGHTS = ("morning", "day", "sunset", "night")
GROUNDS = ("meadow", "desert", "snow")
PLACES = ("left", "middle", "right", "ahead")
ROOFED = ("house", "tower", "mill")  # things with a second color

SYNONYMS = {
    "house": ("cottage", "hut", "cabin", "home", "houses"),
    "tree": ("oak", "trees"),
    "pine": ("fir", "conifer", "pines", "spruce"),
    "tower": ("lighthouse", "towers", "turret"),
    "mill": ("windmill", "mills", "windmills"),
    "red": ("crimson", "scarlet"),
    "orange": ("amber",),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "lime"),
    "blue": ("azure", "navy"),
    "purple": ("violet", "lilac"),
    "pink": ("rose", "magenta"),
    "white": ("pale", "ivory"),
    "morning": ("dawn", "sunrise", "early"),
    "day": ("noon", "daylight", "sunny", "midday", "daytime"),
    "sunset": ("dusk", "evening", "twilight"),
    "night": ("midnight", "moonlit", "starry", "nighttime", "dark"),
    "meadow": ("grass", "field", "fields", "grassland", "meadows", "summer"),
    "desert": ("sand", "sandy", "dunes", "beach"),
    "snow": ("snowy", "winter", "ice", "icy", "wintry"),
    "left": (),
    "middle": ("centre", "center"),
    "right": (),
    "ahead": ("beyond", "later", "further", "farther", "then"),
    "roof": ("cap", "top", "roofs"),
    "roofed": (),
    "and": (),
}
CANONICAL = folded(SYNONYMS, (*KINDS, "roof"))
_SILENT = frozenset(
    "a an the with in on of at to is are there it its by from under over side some stands standing stand this that but "
    "s landscape scene world view quiet calm camera picture slowly gently we see while show draw add please".split()
)
_DEPTH = "things stand side by side; say left, middle, right or ahead"
_SIZE = "sizes cannot be chosen"
_REFUSED = {
    **dict.fromkeys("behind front background foreground far near distance distant close nearby".split(), _DEPTH),
    **dict.fromkeys("big tall small large little huge tiny".split(), _SIZE),
}
MOST_ALIKE = 3  # things of one kind: as many as fit into the first picture
LEXICON = Lexicon(CANONICAL, _SILENT, MOST_ALIKE, _REFUSED)

SUGGESTIONS = {
    "things": KINDS,
    "colours": COLOURS,
    "light": LIGHTS,
    "ground": GROUNDS,
    "places": ("on the left", "in the middle", "on the right", "ahead"),
    "camera": ("the camera pans right", "the camera pans left", "pans slowly right", "the camera holds still"),
}

EXAMPLES = (
    "a sunny meadow, a red house with a blue roof on the left and a white mill on the right",
    "a snowy night, a yellow house with a red roof in the middle and a green pine ahead; the camera pans slowly right",
    "a desert at sunset, a purple tower with an orange roof on the left; the camera pans right",
    "morning in a meadow, a pink tree in the middle and a blue mill on the right; the camera pans left",
)
