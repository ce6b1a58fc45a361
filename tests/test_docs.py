"""Promise: the documentation builds without a network and all its links work; the README's links work from a package
index, or are plain text."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "setup.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    unreachable = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, **unreachable, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_document_is_in_the_site_and_can_be_searched(site: Path) -> None:
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "python", "javascript", "model"}
    assert documents <= {path.stem for path in site.glob("*.html")}
    found = {
        entry["location"].partition(".")[0]
        for entry in json.loads((site / "search/search_index.json").read_text())["docs"]
    }
    assert documents <= found


def test_a_page_of_the_site_fetches_nothing_from_elsewhere_and_shows_its_pictures(site: Path) -> None:
    page = (site / "index.html").read_text()
    fetched = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="([^"]+)"', page)
    assert fetched and not [address for address in fetched if address.startswith(("http:", "https:", "//"))]
    pictures = [address for address in fetched if address.startswith("pictures/")]
    assert pictures and all((site / picture).exists() for picture in pictures)


def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pafu_setup", SETUP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_the_readme_work_from_a_package_index_or_are_words() -> None:
    absolute = setup_py().absolute
    text = (
        "![a picture](docs/a.png) of [the method](docs/method.md#x), [elsewhere](https://a.example/b), [here](#there)"
    )
    home = "https://forge.example/pafu/blob/main/"
    assert absolute(text, home) == (
        f"![a picture]({home}docs/a.png) of [the method]({home}docs/method.md#x), "
        "[elsewhere](https://a.example/b), [here](#there)"
    )
    assert absolute(text, "") == "*a picture* of the method, [elsewhere](https://a.example/b), [here](#there)"
    relative = re.compile(r"\]\((?!https?:|#|mailto:)")
    assert relative.search((ROOT / "README.md").read_text()) and not relative.search(
        absolute((ROOT / "README.md").read_text())
    )


def test_the_moving_picture_stands_in_the_first_screen_and_is_small() -> None:
    from PIL import Image

    lines = (ROOT / "README.md").read_text().splitlines()
    assert any("docs/pictures/page.webp" in line for line in lines[:12])
    path = ROOT / "docs" / "pictures" / "page.webp"
    assert path.stat().st_size < 2_000_000
    with Image.open(path) as picture:
        assert picture.n_frames > 20
