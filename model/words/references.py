"""Which of the things that a prompt has named its later words speak of: "the left one", "both", "the second house". No
torch."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from model.words.description import Thing

TOGETHER = frozenset("both all they them these those their theirs each every everything".split())
ALL = ("all", "everything")
LOOKED_AT = 16  # things: more are not drawn in any world, and each reference looks at all of them


@dataclass(frozen=True)
class Reference:
    """What words such as "the second red house" say of the thing that they mean. said: its kind and attributes.
    places: those that the clause names. ordinal: 0 for the first. other: not the one spoken of just now. count: how
    many are meant, None: one, or all if ``many``."""

    said: Thing
    many: bool = False
    places: Set[str] = frozenset()
    ordinal: int | None = None
    other: bool = False
    count: int | None = None


class Named:
    """The things that a prompt has named so far, in order: ``things`` grows while it is read."""

    def __init__(self) -> None:
        self.things: list[Thing] = []
        self._several: Sequence[Thing] = []  # the things of the last phrase, if they are several
        self._chosen = 0  # how many of the antecedents were spoken of
        self._spoken_of: Sequence[Thing] = []

    def named(self, group: Sequence[Thing]) -> None:
        """A phrase has named ``group``."""
        self.things += group
        self._several = group if len(group) > 1 else []
        self._chosen, self._spoken_of = 0, group

    def spoken_of(self, things: Sequence[Thing]) -> None:
        """Words speak of ``things``, which were named before."""
        self._spoken_of = things

    @property
    def has_several(self) -> bool:
        """Whether the last phrase named several things, and not all of them were chosen."""
        return self._chosen < len(self._several)

    @property
    def is_choosing(self) -> bool:
        """Whether some, but not all, things of the last phrase were chosen."""
        return 0 < self._chosen < len(self._several)

    @property
    def following(self) -> Thing | None:
        """The antecedent that ``next`` returns."""
        return next(iter(self._antecedents[self._chosen :]), None)

    def next(self, count: int = 1) -> list[Thing]:
        """The next ``count`` of the antecedents, in order."""
        chosen = [*self._antecedents[self._chosen : self._chosen + count]]
        self._chosen += len(chosen)
        return chosen

    def at_index(self, index: int) -> list[Thing]:
        """The antecedent with this index, negative from the end."""
        found = [*self._antecedents[index:][:1]]
        if found:
            self._chosen = index % len(self._antecedents) + 1
        return found

    def at_place(self, place: str) -> list[Thing]:
        """The antecedent at ``place``, else the next one that has none."""
        there = [thing for thing in self._antecedents if thing.place == place]
        return there[:1] or [thing for thing in self._antecedents[self._chosen :] if thing.place is None][:1]

    def colored(self, colour: str) -> list[Thing]:
        """The antecedent that has this color."""
        return [thing for thing in self._antecedents if thing.colour == colour][:1]

    def others(self) -> list[Thing]:
        """The antecedents that were not chosen, without the first if none was."""
        rest = [*self._antecedents[max(1, self._chosen) :]]
        self._chosen = len(self._antecedents)
        return rest

    def together(self, word: str) -> list[Thing]:
        """The things that one of ``TOGETHER`` stands for."""
        if word in ALL:
            return self.things[:LOOKED_AT]
        if word == "both" and len(self._several) != 2:
            return self.things[-2:]
        return [*(self._several or self.things[:LOOKED_AT])]

    def meant(self, reference: Reference) -> list[Thing]:
        """The named things that ``reference`` means; none if it means a new one."""
        said = reference.said
        alike = [thing for thing in self.things[:LOOKED_AT] if thing.kind == said.kind]
        if reference.ordinal is not None:
            return alike[reference.ordinal : reference.ordinal + 1]
        fitting = [thing for thing in alike if replace(said, place=None).fits(thing)]
        if reference.other:
            fitting = [thing for thing in fitting if all(thing is not each for each in self._spoken_of)]
        if reference.many:
            return fitting if reference.count is None else self._last(fitting, reference.count)
        if reference.other and not reference.places:
            return fitting[:1]
        return self._single(fitting, reference.places)

    def _last(self, things: list[Thing], count: int) -> list[Thing]:
        return things[-count:] if count <= len(things) else []

    def _single(self, fitting: list[Thing], places: Set[str]) -> list[Thing]:
        """The last one at these places; of several, else the first without a place."""
        there = [thing for thing in fitting if not places - {thing.place}]
        free = [thing for thing in fitting if thing.place is None] if len(fitting) > 1 else []
        return there[-1:] or free[:1]

    @property
    def _antecedents(self) -> Sequence[Thing]:
        return self._several or self.things[:LOOKED_AT]
