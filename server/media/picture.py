"""The first picture of a video: validate the upload, rotate it upright, crop it to the model's size.

Uploads are untrusted: format and size are checked before any pixel is decoded.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import io
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

KINDS = ("JPEG", "PNG", "WEBP")
MOST_BYTES = 64 * 2**20  # of a file; servers take less: max_body_bytes, max_start_bytes
MOST_PIXELS = 40_000_000  # larger is taken for a decompression bomb
LEAST_SIDE = 16
DATA_URL = re.compile(r"data:[^,;]{0,80}(;[^,;]{0,80}){0,4};base64,", re.IGNORECASE)
# other formats, recognized by the bytes at an offset
OTHERS = (
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "an SVG"),
    (4, b"ftypheic", "a HEIC"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftyp", "a video"),
)
WANTED = f"send {', '.join(KINDS)} as a file or as a data URL (data:image/png;base64,...)"


T = TypeVar("T")
_one = ThreadPoolExecutor(1, thread_name_prefix="picture")


async def one_at_a_time(work: Callable[..., T], *given: Any) -> T:
    """What ``work(*given)`` returns, which prepares a picture. It holds the interpreter for up to 20 ms at a time, so
    several at once would hold up the event loop."""
    run = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(_one, run, work, *given)


class PictureError(ValueError):
    """The upload cannot be used as a first picture; the message says why and what is allowed."""


def fitted(data: bytes, width: int, height: int) -> bytes:
    """The picture upright and center-cropped to ``width`` x ``height``, as PNG. Raises PictureError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=KINDS) as image:
                _check_size(image)
                upright = ImageOps.exif_transpose(image)
                cut = ImageOps.fit(_in_rgb(upright), (width, height), Image.Resampling.LANCZOS)
    except PictureError:
        raise
    except UnidentifiedImageError:
        kind = next((name for at, sign, name in OTHERS if data[at:].startswith(sign)), None)
        what = f"{kind} is not supported" if kind else f"the {len(data)} bytes are not a known picture format"
        raise PictureError(f"{what}: {WANTED}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"the picture is larger than {MOST_PIXELS:,} pixels: send a smaller one") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PictureError(f"the picture is damaged: {str(error)[:80]}; {WANTED}") from None
    out = io.BytesIO()
    cut.save(out, "PNG", compress_level=1)
    return out.getvalue()


def read(path: Path) -> bytes:
    """The bytes of a picture file. Raises PictureError for a file that is too large, OSError if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)  # also of a pipe or device, which tell no size
    if len(data) > MOST_BYTES:
        raise PictureError(f"the file has more than {MOST_BYTES // 2**20} MiB: send a smaller picture")
    return data


def data_of(reference: Any) -> bytes:
    """The bytes of a picture given as a data URL, an object or list that holds one, or bytes. Raises PictureError."""
    if isinstance(reference, list) and len(reference) == 1:
        return data_of(reference[0])
    if isinstance(reference, dict):
        inner = next((reference[name] for name in ("image_url", "url", "data") if name in reference), None)
        return data_of(inner)
    if isinstance(reference, bytes):
        return reference
    if not isinstance(reference, str):
        raise PictureError(f"{str(reference)[:40]!r} is not a picture: {WANTED}")
    match = DATA_URL.match(reference)
    if not match:
        about = "URLs are not fetched" if reference.startswith(("http:", "https:")) else "it is not a data URL"
        raise PictureError(f"{reference[:40]!r}: {about}; {WANTED}")
    try:
        return base64.b64decode("".join(reference[match.end() :].split()), validate=True)
    except ValueError as error:
        raise PictureError(f"the data URL is not base64: {error}; {WANTED}") from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"the picture has {width}x{height} pixels; the maximum is {MOST_PIXELS:,}: send a smaller one"
        )
    if min(width, height) < LEAST_SIDE:
        raise PictureError(f"the picture has {width}x{height} pixels: each side needs at least {LEAST_SIDE}")


def _in_rgb(image: Image.Image) -> Image.Image:
    """As 8-bit RGB; transparent areas become black."""
    if image.mode.startswith("I"):  # 16-bit gray, which a plain conversion would clip at 255
        return image.convert("I").point(lambda gray: gray / 257).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "black"), layered).convert("RGB")
    return image.convert("RGB")
