"""First pictures of videos."""

from __future__ import annotations

import base64
from os import PathLike
from pathlib import Path

from pafu_client.errors import PafuError

Picture = bytes | str | PathLike[str]
"""A picture that a video begins with: the bytes of a JPEG, PNG or WebP, the path of one, or a data URL."""


def data_url(picture: Picture) -> str:
    """The picture as a data URL. Raises PafuError ``bad_picture`` if the file cannot be read."""
    if isinstance(picture, str) and picture.startswith("data:"):
        return picture
    data = picture if isinstance(picture, bytes) else _read(Path(picture))
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()  # the server detects the format


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PafuError("bad_picture", f"cannot read the picture {path}: {error.strerror}", "image") from None
