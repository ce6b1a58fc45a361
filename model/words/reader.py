"""Reads one prompt clause by clause: which color, roof and place belong to which thing. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from model.words.description import Description, Thing
from model.words.lexicon import Lexicon, affirmed, asked_for, clauses, is_number

_IS = ("is", "are", "was", "were")
_NEW, _ONE = ("a", "an", "another"), ("one", "ones")
_OTHERS = {"second", "third", "other"}
_TOGETHER = ("both", "all", "they")  # speak of things that were named, also of several phrases
_NO_THING = "no thing is left for it"
_ONE_COLOUR = "a thing has one color, and a roof another"


@dataclass(frozen=True)
class WordClasses:
    """The words of one world, by what they say. alone: places that only one of several things of a phrase can take.
    roofed: kinds with a second color."""

    lexicon: Lexicon
    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    lights: tuple[str, ...]
    grounds: tuple[str, ...]
    places: tuple[str, ...]
    weathers: tuple[str, ...] = ()
    distances: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    roofed: frozenset[str] = frozenset()


@dataclass
class _Waiting:
    """Words of a clause that still wait for their thing: by role, what was said and how it was spelled. ``count`` is
    None if no number was said."""

    said: dict[str, tuple[str, str]] = field(default_factory=dict)
    article: str = ""
    count: int | None = None
    counted: str = ""


class Reader:
    """The state of reading one prompt.

    A color belongs to the thing or roof after it, after "roof" or "roof is" to the roof, and at the end of a clause to
    the thing before it. A place belongs to the thing before it in the clause, else to the next one, else to a thing of
    an earlier clause. A plural without a number asks for two. "A red and a blue house" are two houses, "a red house
    and a blue one" likewise; "the house" is the one that was named before. Whatever finds no thing is said in
    ``Description.ignored``.
    """

    def __init__(self, words: WordClasses) -> None:
        self._words = words
        self._said = Description()
        self._group: list[Thing] = []  # things of the last phrase: what later colors and places refer to
        self._next = 0  # the thing of the group that a later clause speaks of
        self._waiting = _Waiting()
        self._shared: list[_Waiting] = []  # colors of earlier clauses for the next thing, as in "a red and a blue mill"
        self._spelled: dict[str, str] = {}  # how light, ground and weather were spelled

    def read(self, prompt: str) -> Description:
        """Unknown and negated words are ignored; a later light or ground replaces an earlier one."""
        for clause in clauses(affirmed(prompt)):
            self._clause(self._words.lexicon.words(clause))
        for _, spelled in self._waiting.said.values():
            self._ignore(spelled, _NO_THING)
        self._drop_shared()
        return self._said

    # ---- one clause

    def _clause(self, words: list[str]) -> None:
        self._own = self._turning = self._bare_roof = self._strange = False
        self._last = ""
        for at, spelled in enumerate(words):
            word = self._words.lexicon.canonical.get(spelled, spelled)
            following = self._words.lexicon.canonical.get(words[at + 1]) if at + 1 < len(words) else None
            if spelled == "dark" and following in self._words.colours:
                self._ignore(spelled, "shades cannot be chosen")
            elif word in self._words.colours:
                self._colour(word, spelled)
            elif not self._thing_or_number(word, spelled, words):
                self._attribute_or_setting(word, spelled)
            self._last = self._last if word in _IS else word
        self._settle()

    def _colour(self, word: str, spelled: str) -> None:
        if not (self._last == "roof" and self._give("accent", word, spelled)):
            self._wait("colour", word, spelled)
            self._strange = False

    def _thing_or_number(self, word: str, spelled: str, words: list[str]) -> bool:
        waiting = self._waiting
        if word in _NEW:
            self._uncounted(waiting)
            waiting.article, waiting.count = word, None
        elif word == "the":
            waiting.article = word
        elif word in _ONE and self._group and self._stands_for_a_thing():
            self._name(self._group[-1].kind, 2 if word == "ones" else 1)
        elif is_number(word):
            if spelled != waiting.counted:
                self._uncounted(waiting)
            waiting.count, waiting.counted = asked_for(word), spelled
        elif word in self._words.kinds:
            known = self._named_before(word, spelled, words)
            if known is None:
                self._name(word, 2 if spelled in self._words.lexicon.plurals else 1)
            else:
                self._speak_of(known)
        else:
            return False
        return True

    def _stands_for_a_thing(self) -> bool:
        """Whether "one" stands for a new thing of the last kind, as in "a blue one" and "another one"."""
        waiting = self._waiting
        return waiting.article != "the" and ("colour" in waiting.said or waiting.article in _NEW)

    def _attribute_or_setting(self, word: str, spelled: str) -> None:
        waiting, words = self._waiting, self._words
        if word == "roofed" and "colour" in waiting.said:
            self._wait("accent", *waiting.said.pop("colour"))
        elif word == "roof" and "colour" in waiting.said:
            colour, every = waiting.said.pop("colour"), len(self._group) if spelled.endswith("s") else None
            if not self._give("accent", *colour, every):
                self._wait("accent", *colour)
        elif word == "roof":
            self._bare_roof = True
        elif word in words.places or word in words.distances:
            role = "place" if word in words.places else "distance"
            if not (self._own and self._give(role, word, spelled)):
                self._wait(role, word, spelled)
        elif word == "turning" and spelled in words.lexicon.canonical:
            self._turning = True
        else:
            self._setting(word, spelled)

    def _setting(self, word: str, spelled: str) -> None:
        """A word of light, weather or ground, if it is one."""
        said, words = self._said, self._words
        if word in words.lights and self._turning and said.light:
            said.later, self._turning = word, False
        elif word in words.lights:
            said.light = self._replace("light", said.light, word, spelled)
        elif word in words.weathers:
            said.weather = self._replace("weather", said.weather, word, spelled)
        elif word in words.grounds:
            said.ground = self._replace("ground", said.ground, word, spelled)
        else:
            self._strange = self._strange or word not in words.lexicon.silent
            return
        self._waiting.article = ""
        colour = self._waiting.said.pop("colour", None)
        if colour and not self._strange:
            self._ignore(colour[1], "only things have colors, not light or ground")

    def _replace(self, role: str, old: str | None, word: str, spelled: str) -> str:
        if old not in (None, word):
            self._ignore(self._spelled[role], f"a picture has one {role}, here '{spelled}'")
        self._spelled[role] = spelled
        return word

    # ---- things

    def _name(self, kind: str, usual: int) -> None:
        """As many new things as were asked for, ``usual`` if no number was said, with the words that wait for them, and
        those of the colors before ("a red and a blue house", but not "a red and blue house")."""
        waiting, self._waiting = self._waiting, _Waiting()
        several = usual > 1 or waiting.article or waiting.count
        shared = self._shared if several and "colour" in waiting.said else []
        self._shared = self._shared[len(shared) :]
        self._drop_shared()
        self._group = [thing for each in shared for thing in self._alike(kind, each, 1)]
        self._group += self._alike(kind, waiting, 1 if shared else usual)
        self._said.things += self._group
        self._own, self._next = True, 0

    def _alike(self, kind: str, waiting: _Waiting, usual: int) -> list[Thing]:
        most = self._words.lexicon.most_alike
        if waiting.count is not None and waiting.count > most:
            self._tell(f"'{waiting.counted}' is too many: the model draws at most {most} of a kind")
        said = {role: word for role, (word, _) in waiting.said.items()}
        if "accent" in said and not self._has_roof(kind, waiting.said["accent"][1]):
            del said["accent"]
        first = Thing(kind, **said)
        other = replace(first, place=None) if first.place in self._words.alone else first
        return [first, *(replace(other) for _ in range(min(waiting.count or usual, most) - 1))]

    def _named_before(self, kind: str, spelled: str, words: list[str]) -> Thing | None:
        """The thing that "the house" refers to: the last one of this kind that was named, and not at another place."""
        waiting, lexicon = self._waiting, self._words.lexicon
        if waiting.article != "the" or waiting.count is not None or spelled in lexicon.plurals or _OTHERS & {*words}:
            return None
        said = Thing(kind, **{role: word for role, (word, _) in waiting.said.items()})
        places = {lexicon.canonical.get(word) for word in words} & {*self._words.places}
        for thing in reversed(self._said.things):
            if replace(said, place=None).fits(thing) and not places - {thing.place}:
                return thing
        return None

    def _speak_of(self, known: Thing) -> None:
        self._waiting, self._group, self._own, self._next = _Waiting(), [known], True, 0

    def _has_roof(self, kind: str, colour: str) -> bool:
        if kind not in self._words.roofed:
            self._ignore(colour, f"a {kind} has one color")
        return kind in self._words.roofed

    # ---- attributes

    def _give(self, role: str, word: str, spelled: str, count: int | None = None) -> bool:
        """Give an attribute to all things of the clause's own phrase, or to the first if only one can have it, or to
        the things of an earlier phrase that the clause speaks of. False if none of them lacks it."""
        things = self._group if self._own else self._spoken_of(role, count)
        if not things or getattr(things[0], role):
            return False
        for thing in things[:1] if word in self._words.alone else things:
            if role != "accent" or self._has_roof(thing.kind, spelled):
                setattr(thing, role, word)
        return True

    def _spoken_of(self, role: str, count: int | None) -> list[Thing]:
        """The things of an earlier phrase that a later clause speaks of: "one red, one blue", "both red", "red"."""
        lacking = [at for at, thing in enumerate(self._group) if at >= self._next and not getattr(thing, role)]
        if not lacking:
            return []
        self._next = lacking[0]
        return [self._group[at] for at in lacking[: count or 1]]

    def _wait(self, role: str, word: str, spelled: str) -> None:
        if role in self._waiting.said:
            self._ignore(self._waiting.said[role][1], _ONE_COLOUR if role == "colour" else f"a thing has one {role}")
        self._waiting.said[role] = word, spelled

    def _settle(self) -> None:
        """At the end of a clause, give waiting words to the thing before them. A place or a roof may wait for the next
        thing, and so may a color that begins another phrase."""
        if self._waiting.article == "another" and self._group:
            self._name(self._group[-1].kind, 1)
        waiting, self._waiting = self._waiting, _Waiting()
        if waiting.counted in _TOGETHER and not self._own:
            self._group, self._next = self._said.things[-(waiting.count or 1) :], 0
        elif not waiting.said:
            self._uncounted(waiting)
        if colour := waiting.said.pop("colour", None):
            self._settle_colour(colour, waiting)
        for role, (word, spelled) in waiting.said.items():
            if not self._give(role, word, spelled, waiting.count):
                self._waiting.said[role] = word, spelled

    def _settle_colour(self, colour: tuple[str, str], waiting: _Waiting) -> None:
        counts = waiting.count is not None and waiting.counted not in _TOGETHER
        begins = waiting.article in _NEW or (counts and len(self._group) < 2)
        if self._strange or (self._bare_roof and self._give("accent", *colour)):
            return  # the color of an unknown word, which is told
        elif begins or not (self._group or self._own):
            self._shared.append(_Waiting({"colour": colour}, "", waiting.count if counts else None, waiting.counted))
        elif not self._give("colour", *colour, waiting.count):
            self._ignore(colour[1], _ONE_COLOUR)

    # ---- what is not drawn

    def _uncounted(self, waiting: _Waiting) -> None:
        if waiting.count is not None and waiting.counted not in (*_ONE, *_TOGETHER):
            self._ignore(waiting.counted, "it counts no thing")

    def _drop_shared(self) -> None:
        for each in self._shared:
            self._ignore(each.said["colour"][1], _NO_THING)
        self._shared = []

    def _ignore(self, word: str, why: str) -> None:
        self._tell(f"'{word}' is ignored: {why}")

    def _tell(self, sentence: str) -> None:
        if sentence not in self._said.ignored:
            self._said.ignored.append(sentence)
