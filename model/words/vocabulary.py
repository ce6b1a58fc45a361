"""pafu-mini's vocabulary: synonyms map to a small set of canonical words. No torch."""

from __future__ import annotations

from model.words.ignored import SIDE_BY_SIDE
from model.words.lexicon import Lexicon, folded, plural, plurals_of

KINDS = ("house", "tree", "pine", "tower", "mill")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
LIGHTS = ("morning", "day", "sunset", "night")
GROUNDS = ("meadow", "desert", "snow")
WEATHERS = ("fog",)  # hides everything while a prompt says so
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
    "fog": ("foggy", "mist", "misty", "haze", "hazy"),
    "left": (),
    "middle": ("centre", "center"),
    "right": (),
    "ahead": ("beyond", "later", "further", "farther", "then"),
    "roof": ("cap", "top", "roofs"),
    "roofed": (),
    "and": (),
}
_PLURALS = plurals_of(SYNONYMS, (*KINDS, "roof"))
CANONICAL = folded(SYNONYMS, _PLURALS)
_SILENT = frozenset(
    "a an the with in on of at to is are there it its by from over side some stands standing stand this that but any s "
    "landscape scene world view quiet calm camera picture slowly gently we see while show draw add please another ones "
    "wall walls painted has have whose only just also very like bright them first second third other single".split()
)
_REFUSED = {
    reason: words.split()
    for words, reason in (
        (
            "behind front background foreground far near distance distant close nearby between beside next above below "
            "under beneath underneath inside within around among amid opposite against along across atop",
            SIDE_BY_SIDE,
        ),
        (
            "big tall small large little huge tiny giant gigantic enormous massive short wide narrow bigger smaller "
            "taller larger",
            "sizes cannot be chosen",
        ),
        (
            "black brown grey gray silver gold beige turquoise cyan teal maroon colorful colourful multicolored "
            "multicoloured rainbow striped reddish bluish greenish yellowish greyish grayish",
            f"the colors are {', '.join(COLOURS[:-1])} and {COLOURS[-1]}",
        ),
        (
            "person people man men woman women child children girl boy cat cats dog dogs cow cows horse horses sheep "
            "bird birds boat boats ship car cars church barn castle bridge bridges lamp fence sky cloud clouds sun "
            "moon star stars mountain mountains hill hills river lake sea ocean flower flowers forest palm palms "
            "cactus snowman bush bushes road village city",
            f"the model draws only {', '.join(plural(kind) for kind in KINDS[:-1])} and {plural(KINDS[-1])}",
        ),
        (
            "rain rains rainy raining storm stormy snowfall snowing snows cloudy overcast wind windy",
            "fog is the only weather",
        ),
        ("light", "neither shades nor lamps can be chosen"),
        (
            "zoom zooms zooming tilt tilts tilting up down upward upwards downward downwards forward forwards backward "
            "backwards fly flies flying rotate rotates rotating rise rises rising pan pans panning move moves moving "
            "walk walks walking toward towards approach approaches approaching",
            "the camera pans left or right, or holds still",
        ),
    )
}
MOST_ALIKE = 3  # things of one kind: as many as fit into the first picture
LEXICON = Lexicon(
    CANONICAL,
    _SILENT,
    MOST_ALIKE,
    {word: reason for reason, words in _REFUSED.items() for word in words},
    frozenset({plural(word) for kind in KINDS for word in (kind, *SYNONYMS[kind])} & CANONICAL.keys()),
    frozenset({"tree", "pine"}),
    frozenset((*LIGHTS, *GROUNDS, *WEATHERS)),
    frozenset(WEATHERS),
)

SUGGESTIONS = {
    "things": KINDS,
    "colours": COLOURS,
    "light": LIGHTS,
    "ground": GROUNDS,
    "weather": WEATHERS,
    "places": ("on the left", "in the middle", "on the right", "ahead"),
    "camera": ("the camera pans right", "the camera pans left", "pans slowly right", "the camera holds still"),
}

EXAMPLES = (
    "a sunny meadow, a red house with a blue roof on the left and a white mill on the right",
    "a snowy night, a yellow house with a red roof in the middle and a green pine ahead; the camera pans slowly right",
    "a desert at sunset, a purple tower with an orange roof on the left; the camera pans right",
    "morning in a meadow, a pink tree in the middle and a blue mill on the right; the camera pans left",
)
