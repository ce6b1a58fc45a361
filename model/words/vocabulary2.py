"""The second world's vocabulary: synonyms map to a small set of canonical words. No torch, numpy or PIL."""

from __future__ import annotations

from model.words.lexicon import Lexicon, folded, plurals_of

KINDS = (
    *("house", "tree", "pine", "palm", "cactus", "tower", "mill", "church", "barn", "lighthouse", "castle", "bridge"),
    *("lamp", "fence", "well", "tent", "statue", "boat", "sheep", "cow", "horse", "person", "cat", "dog", "balloon"),
    *("bush", "snowman"),
)
ACCENTED = frozenset(
    "house tower mill church barn lighthouse castle well tent boat person balloon snowman horse lamp".split()
)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
LIGHTS = ("morning", "day", "sunset", "night")
WEATHERS = ("clear", "cloudy", "rain", "snowfall", "fog")
GROUNDS = ("meadow", "desert", "snow", "lake", "seashore")
PLACES = ("left", "middle", "right", "ahead", "back")
DISTANCES = ("far", "near")
MOST_ALIKE = 4  # the most things that one phrase may ask for

# The values of each symbol of a phrase; "later" is the light that the present one turns into.
ROLES = {
    "kind": KINDS,
    "colour": COLOURS,
    "accent": COLOURS,
    "place": PLACES,
    "distance": DISTANCES,
    "light": LIGHTS,
    "weather": WEATHERS,
    "ground": GROUNDS,
    "later": LIGHTS,
}

SYNONYMS = {
    "house": ("cottage", "hut", "cabin", "home"),
    "tree": ("oak", "maple", "birch"),
    "pine": ("fir", "conifer", "spruce"),
    "palm": (),
    "cactus": ("cacti",),
    "tower": ("turret",),
    "mill": ("windmill",),
    "church": ("chapel",),
    "barn": ("farm", "shed", "stable"),
    "lighthouse": ("beacon",),
    "castle": ("fortress", "palace"),
    "bridge": (),
    "lamp": ("lantern", "streetlamp", "lamppost"),
    "fence": ("railing",),
    "well": (),
    "tent": (),
    "statue": ("monument", "sculpture"),
    "boat": ("ship", "sailboat", "sailing"),
    "sheep": ("lamb",),
    "cow": ("cattle", "bull"),
    "horse": ("pony",),
    "person": ("people", "man", "woman", "men", "women", "child", "girl", "boy", "farmer", "somebody", "someone"),
    "cat": ("kitten",),
    "dog": ("puppy",),
    "balloon": (),
    "bush": ("shrub", "hedge"),
    "snowman": ("snowmen",),
    "red": ("crimson", "scarlet"),
    "orange": ("amber",),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "lime"),
    "blue": ("azure", "navy"),
    "purple": ("violet", "lilac"),
    "pink": ("rose", "magenta"),
    "white": ("pale", "ivory"),
    "morning": ("dawn", "sunrise", "early"),
    "day": ("noon", "daylight", "midday", "daytime", "afternoon"),
    "sunset": ("dusk", "evening", "twilight"),
    "night": ("midnight", "moonlit", "starry", "nighttime", "dark"),
    "clear": ("sunny", "cloudless", "bright"),
    "cloudy": ("overcast", "clouds", "grey", "gray", "clouded"),
    "rain": ("rainy", "raining", "drizzle", "shower", "rains", "storm", "stormy"),
    "snowfall": ("snowing", "snowflakes", "snows", "blizzard"),
    "fog": ("foggy", "mist", "misty", "haze", "hazy"),
    "meadow": ("grass", "field", "grassland", "countryside", "pasture"),
    "desert": ("dunes", "dune"),
    "snow": ("snowy", "winter", "ice", "icy", "wintry"),
    "lake": ("pond", "lakeside", "lakeshore", "water"),
    "seashore": ("sea", "beach", "coast", "shore", "seaside", "ocean", "sand", "sandy"),
    "left": (),
    "middle": ("centre", "center"),
    "right": (),
    "ahead": ("beyond", "later", "further", "farther", "then", "soon"),
    "back": ("return", "returning", "again"),
    "far": ("distance", "distant", "background", "behind", "faraway"),
    "near": ("front", "foreground", "close", "nearby"),
    "roof": ("cap", "top", "hat", "sail", "stripe", "flag", "spire", "scarf", "dome", "mane"),
    "roofed": ("capped", "topped", "striped"),
    "turning": ("turns", "becoming", "becomes", "changing", "changes", "falls", "falling", "fades", "fading", "into"),
    "and": (),
}


_PLURALS = plurals_of(SYNONYMS, (*KINDS, "roof", "meadow"))
CANONICAL = folded(SYNONYMS, _PLURALS)
_SILENT = frozenset(
    "a an the with in on of at to is are there it its by from under over side some stands standing stand this that but "
    "landscape scene world view quiet calm camera picture slowly gently big tall small large little we see go goes "
    "come comes hot air while sky out way up down for way s be has have which where through slow old young "
    "show draw add please another ones wall walls painted first second third other single".split()
)
SUGGESTIONS = {
    "things": KINDS,
    "colours": COLOURS,
    "light": LIGHTS,
    "weather": WEATHERS,
    "ground": GROUNDS,
    "places": ("on the left", "in the middle", "on the right", "ahead", "in the distance", "in front", "back to"),
    "camera": ("the camera pans right", "the camera pans left", "pans slowly right", "the camera holds still"),
}
EXAMPLES = (
    "a sunny meadow, a red house with a blue roof on the left and a white mill in the distance",
    "a snowy night, a yellow church with a red roof in the middle and a green pine ahead; the camera pans slowly right",
    "a rainy lake at sunset, an orange boat with a white sail on the left; the camera pans right",
    "a foggy morning at the sea, a white lighthouse with a red cap on the right and a person with a blue hat",
)
LEXICON = Lexicon(
    CANONICAL,
    _SILENT,
    MOST_ALIKE,
    plurals=frozenset(word for word, token in _PLURALS.items() if token in KINDS),
    trees=frozenset({"tree", "pine", "palm"}),
    settings=frozenset((*LIGHTS, *GROUNDS, *WEATHERS)),
)
