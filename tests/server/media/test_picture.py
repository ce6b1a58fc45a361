"""Promise: untrusted pictures are turned upright and cropped, or refused in one line."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.media import picture
from server.media.picture import PictureError, data_of, fitted
from server.worker.generator import pixels


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def halves() -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (40, 80), "blue")
    image.paste("red", (0, 0, 40, 40))
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_middle_is_cut_to_the_models_size(kind: str) -> None:
    wide = Image.new("RGB", (400, 100), "white")
    wide.paste("green", (150, 0, 250, 100))
    found = pixels(fitted(encoded(wide, kind), 64, 64))
    assert found.shape == (64, 64, 3) and abs(found.astype(int) - np.array([0, 128, 0])).max() < 40


def test_a_turned_camera_is_turned_back() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = encoded(halves().rotate(180), "JPEG", exif=exif.tobytes(), quality=95)
    found = pixels(fitted(turned, 32, 64))
    assert found[8, 16, 0] > 200 and found[56, 16, 2] > 200


def test_what_is_transparent_is_black() -> None:
    assert not pixels(fitted(encoded(Image.new("RGBA", (32, 32), (255, 0, 0, 0))), 16, 16)).any()


def test_16_bits_of_grey_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = pixels(fitted(encoded(Image.fromarray(ramp)), 64, 64)).astype(int)
    assert found[0, 0, 0] == 0 and found[-1, -1, 0] == 255 and abs(found[32, 0, 0] - 128) < 3


@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_whatever_a_jpeg_is_made_of_it_is_read_as_colours(mode: str) -> None:
    found = pixels(fitted(encoded(Image.new("RGB", (32, 32), "white").convert(mode), "JPEG"), 16, 16))
    assert found.shape == (16, 16, 3) and found.min() > 250


def test_of_an_animation_the_first_picture_counts() -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", (32, 32), "blue")]}
    found = pixels(fitted(encoded(Image.new("RGB", (32, 32), "red"), "WEBP", **frames), 16, 16))
    assert found[8, 8, 0] > 240 and found[8, 8, 2] < 15


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello", "the 5 bytes are not a known picture format: send JPEG, PNG, WEBP"),
        (encoded(halves(), "GIF"), "a GIF is not supported: send JPEG, PNG, WEBP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG is not supported"),
        (b"\0\0\0\x18ftypheic", "a HEIC is not supported"),
        (encoded(halves(), "JPEG")[:400], "the picture is damaged"),
        (bomb(), "larger than 40,000,000 pixels"),
        (encoded(Image.new("1", (8000, 8000))), "the picture has 8000x8000 pixels; the maximum is 40,000,000"),
        (encoded(Image.new("RGB", (8, 80))), "each side needs at least 16"),
    ],
    ids=["text", "gif", "svg", "heic", "torn", "bomb", "large", "small"],
)
def test_what_is_no_picture_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(PictureError, match=said):
        fitted(data, 64, 64)


def test_a_reference_is_a_data_url_an_object_with_one_or_a_file() -> None:
    url = "data:image/png;base64," + base64.b64encode(b"abc").decode()
    wrapped = "DATA:image/png;charset=utf-8;base64,\n" + base64.encodebytes(b"abc").decode()
    assert data_of(wrapped) == b"abc"
    assert (
        data_of(url) == data_of({"image_url": url}) == data_of({"image_url": {"url": url}}) == data_of(b"abc") == b"abc"
    )


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("https://example.org/a.png", "URLs are not fetched"),
        ("cat.png", "it is not a data URL"),
        ("data:image/png;base64,a", "not base64"),
        ("data:image/png;base64,é", "not base64"),
        (7, "is not a picture"),
        ({"file_id": "x"}, "is not a picture"),
    ],
)
def test_other_references_are_refused(reference: object, said: str) -> None:
    with pytest.raises(PictureError, match=said):
        data_of(reference)


def test_a_file_is_read_up_to_a_limit_whatever_it_says_of_its_size(monkeypatch) -> None:
    monkeypatch.setattr(picture, "MOST_BYTES", 2**20)
    with pytest.raises(PictureError, match="the file has more than 1 MiB: send a smaller picture"):
        picture.read(Path("/dev/zero"))
