"""Pictures that a video begins with."""

from __future__ import annotations

import base64
from os import PathLike
from pathlib import Path

from pafu_client.errors import PafuError

Picture = bytes | str | PathLike[str]
"""A picture that a video begins with: the bytes of a JPEG, PNG or WebP, the path of one, or a data URL."""


def data_url(picture: Picture) -> str:
    """The picture as the server takes it. Raises PafuError ``bad_picture`` when its file cannot be read."""
    if isinstance(picture, str) and picture.startswith("data:"):
        return picture
    data = picture if isinstance(picture, bytes) else _read(Path(picture))
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()  # the server looks itself


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PafuError("bad_picture", f"the picture {path} cannot be read: {error.strerror}", "image") from None
