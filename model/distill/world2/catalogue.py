"""The kinds of things: their size, where they stand, and the colours that suit them."""

from __future__ import annotations

from dataclasses import dataclass

from model.words.vocabulary2 import ACCENTED

ALL_DEPTHS = ("far", "mid", "main")
CLOSE = ("mid", "main")
LAND = ("meadow", "desert", "snow", "lake", "seashore")


@dataclass(frozen=True)
class Kind:
    """width and height in units at scale 1; favourites: colours drawn more often; likely: weight per ground."""

    width: float
    height: float
    depths: tuple[str, ...]
    favourites: tuple[str, ...] = ()
    weight: float = 1.0
    at_home: tuple[str, ...] = LAND  # elsewhere a fifth as often
    frames: int = 1  # drawings of its idle motion
    pace: int = 8  # pictures per drawing

    def weight_on(self, ground: str) -> float:
        return self.weight * (1.0 if ground in self.at_home else 0.2)


GREENS = ("green", "green", "green", "orange", "yellow")
KIND = {
    "house": Kind(84, 88, ALL_DEPTHS, ("white", "yellow", "red", "blue"), 2.2),
    "tree": Kind(78, 104, ALL_DEPTHS, GREENS, 2.0, ("meadow", "lake")),
    "pine": Kind(58, 112, ALL_DEPTHS, ("green", "green", "blue"), 1.6, ("meadow", "snow", "lake")),
    "palm": Kind(76, 104, ALL_DEPTHS, ("green", "green", "yellow"), 1.3, ("desert", "seashore")),
    "cactus": Kind(40, 64, CLOSE, ("green", "green"), 1.3, ("desert",)),
    "tower": Kind(48, 122, ALL_DEPTHS, ("white", "orange")),
    "mill": Kind(100, 124, ALL_DEPTHS, ("white", "red", "yellow"), 1.2, ("meadow", "lake", "seashore")),
    "church": Kind(82, 126, ALL_DEPTHS, ("white", "yellow")),
    "barn": Kind(98, 76, ALL_DEPTHS, ("red", "red", "white"), 1.0, ("meadow", "snow", "lake")),
    "lighthouse": Kind(46, 134, ALL_DEPTHS, ("white", "red"), 1.1, ("seashore", "lake")),
    "castle": Kind(126, 116, ALL_DEPTHS, ("white", "orange", "pink"), 0.8),
    "bridge": Kind(132, 50, CLOSE, ("white", "red", "orange"), 1.1, ("meadow", "lake", "snow")),
    "lamp": Kind(22, 76, CLOSE, ("green", "blue", "red"), 0.7),
    "fence": Kind(96, 27, CLOSE, ("white", "orange"), 0.6),
    "well": Kind(44, 54, CLOSE, ("white", "orange"), 0.9),
    "tent": Kind(76, 56, CLOSE, ("orange", "red", "blue"), 0.9, ("desert", "snow", "meadow")),
    "statue": Kind(38, 76, CLOSE, ("white", "white", "green"), 0.8),
    "boat": Kind(80, 74, ("mid",), ("red", "white", "blue"), 1.0, ("lake", "seashore")),
    "sheep": Kind(40, 30, ("main",), ("white", "white", "white"), 1.5, ("meadow", "lake", "snow"), 4, 14),
    "cow": Kind(56, 38, ("main",), ("white", "orange", "white"), 2.2, ("meadow", "lake"), 4, 12),
    "horse": Kind(60, 52, ("main",), ("orange", "white", "red"), 2.2, ("meadow", "desert"), 4, 10),
    "person": Kind(28, 48, ("main",), ("red", "blue", "yellow", "green"), 1.9, LAND, 4, 6),
    "cat": Kind(30, 28, ("main",), ("orange", "white"), 1.5, LAND, 4, 5),
    "dog": Kind(38, 30, ("main",), ("orange", "white"), 1.5, LAND, 4, 3),
    "balloon": Kind(60, 86, CLOSE, ("red", "yellow", "blue", "pink"), 0.7),
    "bush": Kind(58, 36, CLOSE, GREENS, 0.8, ("meadow", "lake", "seashore")),
    "snowman": Kind(38, 58, ("main",), ("white", "white", "white"), 1.4, ("snow",)),
}
# What may stand in front of everything else: it covers little of the picture, or hangs into it from above.
NEAR_KINDS = {
    "meadow": ("bush", "fence", "tree", "lamp"),
    "desert": ("cactus", "bush", "fence", "palm"),
    "snow": ("fence", "lamp", "tree", "bush"),
    "lake": ("bush", "fence", "tree", "lamp"),
    "seashore": ("palm", "fence", "bush", "lamp"),
}
AFLOAT, ALOFT = "boat", "balloon"


def accented(kind: str) -> bool:
    return kind in ACCENTED
