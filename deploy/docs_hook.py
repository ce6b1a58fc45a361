"""MkDocs hook: adds pages from outside ``docs`` (README, clients, model card) and fixes links that leave it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {  # path in the site -> file of the repository
    "index.md": "README.md",
    "python.md": "clients/python/README.md",
    "javascript.md": "clients/js/README.md",
    "model.md": "model/weights_mini/README.md",
}
PLACES = {source: page for page, source in PAGES.items()}
LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
REPOSITORY = re.search(r'^REPOSITORY = "(.*?)"', (ROOT / "setup.py").read_text(), re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside ``docs`` and their pictures."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for picture in (ROOT / "model" / "weights_mini").glob("*.png"):
        files.append(File.generated(config, f"pictures/model/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to the site's page for a file, or to the repository if it is not in the site."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def put(link: re.Match[str]) -> str:
        words, path, anchor = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target in PLACES:
            return f"{words}({PLACES[target]}{anchor})"
        if target.startswith("docs/"):
            return f"{words}({target.removeprefix('docs/')}{anchor})"
        if target.startswith("model/weights_mini/") and target.endswith(".png"):
            return f"{words}(pictures/model/{posixpath.basename(target)})"
        repository = REPOSITORY[1] if REPOSITORY else ""
        return f"{words}({repository}{target}{anchor})" if repository else words.lstrip("!").strip("[]")

    return LINK.sub(put, markdown)
