"""The words of the second world: synonyms fold into a small set of canonical words. No torch, no numpy, no PIL."""

from __future__ import annotations

import difflib
import re
import unicodedata

from model.camera import without_camera

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
MOST_ALIKE = 4  # things that one phrase may ask for
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "pair": 2, "both": 2, "few": 2, "several": 3, "many": 4}
TOO_MANY = frozenset("five six seven eight nine ten eleven twelve dozen dozens hundred hundreds countless".split())
NEGATIONS = frozenset("no not without never nor none neither nothing".split())

# What each symbol of a phrase may say; "later" is the light that the present one turns into.
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


def _plural(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|sh|ch)$", word) else "s")


CANONICAL = {word: token for token, words in SYNONYMS.items() for word in (token, *words)}
CANONICAL |= {
    _plural(word): token
    for token, words in SYNONYMS.items()
    if token in (*KINDS, "roof", "meadow")
    for word in (token, *words)
    if _plural(word) not in CANONICAL
}
_SILENT = frozenset(
    "a an the with in on of at to is are there it its by from under over side some stands standing stand this that but "
    "landscape scene world view quiet calm camera picture slowly gently big tall small large little we see go goes "
    "come comes hot air while sky out way up down for way s be has have which where through slow old young".split()
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


def words_of(prompt: str) -> list[str]:
    """Lower-case words of the prompt without its camera phrases: runs of letters of any script with their marks; an
    emoji or another pictogram is a word of its own."""
    words, letters = [], ""
    for sign in without_camera(prompt).lower() + " ":
        kind = unicodedata.category(sign)
        if kind[0] == "L" or (letters and kind[0] == "M"):
            letters += sign
            continue
        words += [letters] if letters else []
        words += [sign] if kind == "So" else []
        letters = ""
    return words


def known(word: str) -> bool:
    return word in CANONICAL or word in _SILENT or word in NUMBERS or word in NEGATIONS or word in TOO_MANY


def unknown_words(prompt: str) -> list[str]:
    """Words that the model does not know and that it will therefore ignore, each once."""
    return list(dict.fromkeys(word for word in words_of(prompt) if not known(word)))


def suggestion(word: str) -> str | None:
    """The known word that ``word`` is probably a slip of, or None."""
    close = difflib.get_close_matches(word.lower(), CANONICAL, n=1, cutoff=0.75 if len(word) > 4 else 0.66)
    return close[0] if close and len(word) > 2 else None
