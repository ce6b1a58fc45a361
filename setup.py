"""What pyproject.toml cannot say: the README as package indexes show it, where links to files of the repository lead
nowhere. ``REPOSITORY`` is the one place for Pafu's public address; while there is none, such links are plain words."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = ""  # "https://.../": what the path of a file is put behind
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def absolute(text: str, repository: str = REPOSITORY) -> str:
    """The text of a file at the root with links that work from anywhere; without an address, without these links."""

    def put(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if repository:
            return f"{picture}[{words}]({repository}{path})"
        return f"*{words}*" if picture else words

    return LINK.sub(put, text)


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=absolute(readme), long_description_content_type="text/markdown")
