"""``/v1/gallery``: example prompts, each with an animated thumbnail once it has been generated."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from model.spec import ModelSpec
from server.config import Settings
from server.engine.interface import Engine
from server.errors import PafuError
from server.gallery.painter import Painter
from server.gallery.scenes import scenes_of
from server.gallery.thumbnails import Thumbnails
from server.media import loop

PATH = "/v1/gallery"
FOR_EVER = "private, max-age=31536000, immutable"  # the name changes with the content
WEBP: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An animated WebP.",
        "content": {loop.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


class StartingPoint(BaseModel):
    """``loop``: path of the animated thumbnail; null until it exists."""

    prompt: str
    seed: int
    loop: str | None


class Gallery(BaseModel):
    """All starting points."""

    object: Literal["list"] = "list"
    data: list[StartingPoint]


class GalleryService:
    """Lists and serves one server's thumbnails, and runs the painter."""

    def __init__(self, settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        self._spec, self._wanted = spec, settings.gallery
        self._thumbnails = Thumbnails(settings.data_dir / "gallery")
        self._painter = Painter(settings, spec, engine, self._thumbnails)
        self.make_way = self._painter.make_way
        self.stop = self._painter.stop

    def start(self) -> None:
        if self._wanted:
            self._painter.start()

    def list(self) -> Gallery:
        digest = self._painter.digest
        points = []
        for scene in scenes_of(self._spec):
            name = scene.name(self._spec, digest or "")
            path = f"{PATH}/{name}" if digest and self._thumbnails.has(name) else None
            points.append(StartingPoint(prompt=scene.prompt, seed=scene.seed, loop=path))
        return Gallery(data=points)

    def thumbnail(self, name: str) -> bytes:
        """Raises PafuError not_found."""
        if (found := self._thumbnails.read(name)) is None:
            raise PafuError("not_found", f"there is no thumbnail {name[:64]!r}; {PATH} lists those that exist")
        return found


def routes(gallery: GalleryService) -> APIRouter:
    """The router for ``gallery``."""
    router = APIRouter(prefix=PATH, tags=["gallery"])

    @router.get("")
    async def starting_points() -> Gallery:
        """List example prompts and seeds."""
        return await asyncio.to_thread(gallery.list)

    @router.get("/{name}", response_class=Response, responses=WEBP)
    async def thumbnail(name: str) -> Response:
        """Get an example's animated thumbnail."""
        picture = await asyncio.to_thread(gallery.thumbnail, name)
        return Response(picture, headers={"cache-control": FOR_EVER}, media_type=loop.MEDIA_TYPE)

    return router
