"""Serves the page's files with correct types and the policy of what it may load."""

from __future__ import annotations

import hashlib
import html
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from server.config import Settings
from server.http.safe_headers import page_policy

CLIENTS = Path(__file__).resolve().parents[2] / "clients"
PAGE = CLIENTS / "web"
PACKAGE = CLIENTS / "js"  # the JavaScript package; the page uses its scripts in ``client``
POSTER = "poster.jpg"
# The operating system's registry may be wrong, and browsers run no module with a wrong type.
MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


class PageFiles(StaticFiles):
    """The web client; browsers always revalidate it (ETag), so that no old page runs against a newer server."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(directory=PAGE, html=True, check_dir=False)
        self.all_directories = [*self.all_directories, PACKAGE]
        self._policy = page_policy(settings)

    async def get_response(self, path: str, scope: Scope) -> Response:
        name = "index.html" if path in (".", "") else path
        reads = scope["method"] in ("GET", "HEAD")
        response = index(scope) if reads and name == "index.html" else await super().get_response(path, scope)
        if response.status_code == 200 and (mime := MIME_TYPES.get(Path(name).suffix)):
            response.headers["content-type"] = mime
        response.headers["cache-control"] = "no-cache"
        response.headers["content-security-policy"] = self._policy
        return response


def index(scope: Scope) -> Response:
    """index.html with an absolute URL of its poster, because link previews do not resolve relative ones."""
    request = Request(scope)
    poster = html.escape(f"{request.base_url}{POSTER}", quote=True)
    text = (PAGE / "index.html").read_text(encoding="utf-8").replace(f'content="{POSTER}"', f'content="{poster}"')
    body = text.encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if etag in request.headers.get("if-none-match", ""):
        return Response(None, 304, {"etag": etag})
    return Response(body, 200, {"etag": etag})


class Page(Mount):
    """Matches only the page's own paths, so that a wrong method on a route is not reported as a missing file."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("/", PageFiles(settings))
        self._paths = page_paths()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        ours = scope["type"] == "http" and scope["path"] in self._paths
        return super().matches(scope) if ours else (Match.NONE, {})


def page_paths() -> set[str]:
    """All paths of the page's files, without type declarations, which are only for tools."""
    scripts = (PACKAGE / "client").glob("*.js")
    paths = [file.relative_to(PAGE) for file in PAGE.rglob("*")] + [file.relative_to(PACKAGE) for file in scripts]
    return {"/"} | {f"/{path.as_posix()}" for path in paths if path.suffix in MIME_TYPES}
