"""What a prompt says that is not drawn, in sentences. No torch."""

from __future__ import annotations

NO_THING = "no thing is left for it"
SIDE_BY_SIDE = "things stand side by side; say left, middle, right or ahead"
ONE_COLOUR = "a thing has one color, and a roof another"


class Ignored:
    """The sentences about a prompt's words that are not drawn, each once, in order."""

    def __init__(self) -> None:
        self._told: dict[str, None] = {}

    def ignore(self, word: str, why: str) -> None:
        """Tell that a word is not drawn."""
        self.tell(f"'{word}' is ignored: {why}")

    def tell(self, sentence: str) -> None:
        """Tell something else about the prompt."""
        self._told[sentence] = None

    @property
    def sentences(self) -> list[str]:
        """All that was told."""
        return [*self._told]
