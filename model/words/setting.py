"""The light, the weather and the ground of a prompt. No torch."""

from __future__ import annotations

from model.words.clauses import Word, WordClasses
from model.words.ignored import Ignored

_NATURAL = {
    "meadow": ("green",),
    "snow": ("white",),
    "desert": ("yellow", "orange"),
    "sunset": ("red", "orange", "yellow"),
}


class Setting:
    """What was said of them last, None: nothing. later: the light that the present one turns into."""

    def __init__(self, words: WordClasses, ignored: Ignored) -> None:
        self._words, self._ignored = words, ignored
        self.light: str | None = None
        self.weather: str | None = None
        self.ground: str | None = None
        self.later: str | None = None
        self._spelled: dict[str, str] = {}
        self._turning = False

    def begin_clause(self) -> None:
        """A clause begins, in which nothing turns yet."""
        self._turning = False

    def turn(self) -> None:
        """The light turns into another one, which the clause goes on to name."""
        self._turning = True

    def read(self, word: str, spelled: str) -> bool:
        """A word of light, weather or ground; False if it is none."""
        words = self._words
        if word in words.lights and self._turning and self.light:
            self.later, self._turning = word, False
        elif word in words.lights:
            self.light = self._replace("light", self.light, word, spelled)
        elif word in words.weathers:
            self.weather = self._replace("weather", self.weather, word, spelled)
        elif word in words.grounds:
            self.ground = self._replace("ground", self.ground, word, spelled)
        else:
            return False
        return True

    def _replace(self, role: str, old: str | None, word: str, spelled: str) -> str:
        if old not in (None, word):
            self._ignored.ignore(self._spelled[role], f"a picture has one {role}, here '{spelled}'")
        self._spelled[role] = spelled
        return word

    def colour(self, word: str, colour: Word) -> None:
        """A color before ``word``: it is drawn only if it is the usual one, as in "a green meadow"."""
        if colour[0] not in _NATURAL.get(word, ()):
            self._ignored.ignore(colour[1], "only things have colors, not light or ground")
