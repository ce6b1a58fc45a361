"""A picture that a video begins with: read with care, turned upright, cut to the model's size.

It comes from strangers: its kind and its size are looked at before a pixel is decoded.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

KINDS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 40_000_000  # a bomb decodes to more than any camera makes
LEAST_SIDE = 16
DATA_URL = re.compile(r"data:[^,;]{0,80}(;[^,;]{0,80}){0,4};base64,", re.IGNORECASE)
# what people send instead, by where its first bytes say so
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


class PictureError(ValueError):
    """No picture that a video can begin with; the message says what is wrong and what is taken."""


def fitted(data: bytes, width: int, height: int) -> bytes:
    """The picture upright, its middle cut to ``width`` x ``height``, as PNG. Raises PictureError."""
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
        what = f"{kind} is not taken" if kind else f"{len(data)} bytes are no picture that is known here"
        raise PictureError(f"{what}: {WANTED}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"the picture is larger than {MOST_PIXELS:,} pixels: send a smaller one") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PictureError(f"the picture is damaged: {str(error)[:80]}; {WANTED}") from None
    out = io.BytesIO()
    cut.save(out, "PNG", compress_level=1)
    return out.getvalue()


def data_of(reference: Any) -> bytes:
    """The bytes that a request means: a data URL, an object that holds one, or a file. Raises PictureError."""
    if isinstance(reference, dict):
        inner = next((reference[name] for name in ("image_url", "url", "data") if name in reference), None)
        return data_of(inner)
    if isinstance(reference, bytes):
        return reference
    if not isinstance(reference, str):
        raise PictureError(f"{str(reference)[:40]!r} is no picture: {WANTED}")
    match = DATA_URL.match(reference)
    if not match:
        about = "addresses are not fetched" if reference.startswith(("http:", "https:")) else "it is no data URL"
        raise PictureError(f"{reference[:40]!r}: {about}; {WANTED}")
    try:
        return base64.b64decode("".join(reference[match.end() :].split()), validate=True)
    except ValueError as error:
        raise PictureError(f"the data URL is not base64: {error}; {WANTED}") from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"the picture has {width}x{height} pixels, at most {MOST_PIXELS:,} are taken: send a smaller one"
        )
    if min(width, height) < LEAST_SIDE:
        raise PictureError(f"the picture has {width}x{height} pixels: each side needs at least {LEAST_SIDE}")


def _in_rgb(image: Image.Image) -> Image.Image:
    """In 8 bits a channel; on black, where it is transparent."""
    if image.mode.startswith("I"):  # 16 bits of grey, which a plain conversion would cut off at 255
        return image.convert("I").point(lambda grey: grey / 257).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "black"), layered).convert("RGB")
    return image.convert("RGB")
