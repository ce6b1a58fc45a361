"""Parse a form (multipart or urlencoded) into the same fields as a JSON object.

Forms are parsed in one thread, one at a time, because the pure Python parser can be slow on hostile input.
"""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import parse_qsl

from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

from server.access.bounded_json import LARGE, Bounds, beside_the_loop, read_object
from server.errors import PafuError
from server.live.client_messages import PICTURE_FIELDS
from server.live.foreign import BLOCKS, NOTHING

MEDIA_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
MAX_FIELDS, MAX_FIELD_BYTES = 64, 64 * 2**10
MAX_DEPTH = 4  # nesting of a[b][c]
CHARSETS = (b"", b"utf-8", b"utf8", b"us-ascii")
JSON_FIELDS = ("extra_params", "extra_body", *BLOCKS)  # these hold JSON text in a form
OWN_VIDEO = re.compile(rb"video_[0-9a-f]{24}")
PICTURES = tuple(name.encode() for name in PICTURE_FIELDS)
LOOK_BYTES = 2**20  # search range in an uploaded video: its index, with the title, comes first


async def read_form(content_type: str, body: bytes) -> dict[str, Any]:
    """The form's fields. Raises PafuError invalid_message."""
    return await beside_the_loop(LARGE, fields_of, content_type, body)  # slow to parse, whatever its size


def fields_of(content_type: str, body: bytes) -> dict[str, Any]:
    """The form's fields; ``a[b]=1`` becomes {"a": {"b": 1}}. Raises PafuError invalid_message."""
    kind, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"")
    if charset.lower() not in CHARSETS:
        raise PafuError("invalid_message", f"the charset {charset[:64]!r} is not supported; send UTF-8")
    fields: dict[str, Any] = {}
    try:
        if kind == b"multipart/form-data":
            for part in _parts(content_type, body):
                _add(fields, part)
        else:
            pairs = parse_qsl(_text(body, "the form"), True, max_num_fields=MAX_FIELDS, errors="strict")
            for name, value in pairs:
                _add_text(fields, name, value)
    except (FormParserError, ValueError) as error:
        raise PafuError("invalid_message", f"the form cannot be read: {error}") from None
    return fields


def _parts(content_type: str, body: bytes) -> list[Field | File]:
    """Fields and files of a multipart form. Raises FormParserError, ValueError.

    The parser's own limits on fields are for urlencoded forms only, so the parts are counted here.
    """
    fields: list[Field] = []
    files: list[File] = []

    def keep_field(field: object) -> None:
        fields.append(cast("Field", field))
        if len(fields) > MAX_FIELDS:
            raise FormParserError(f"a form has at most {MAX_FIELDS} fields")
        if len(fields[-1].value or b"") > MAX_FIELD_BYTES:
            raise FormParserError(f"a field has at most {MAX_FIELD_BYTES} bytes")

    def keep_file(file: object) -> None:
        files.append(cast("File", file))
        if len(files) > 1:
            raise FormParserError("only one file is allowed")

    memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    headers = {"Content-Type": content_type.encode("latin-1")}
    parser = create_form_parser(headers, keep_field, keep_file, config=memory)
    parser.write(body)
    parser.finalize()
    return [*fields, *files]


def _add(fields: dict[str, Any], part: Field | File) -> None:
    name = _text(part.field_name or b"", "the name of a field")
    if isinstance(part, File):
        if part.size or (part.file_name and part.field_name in PICTURES):  # forms send an empty file for none
            fields[name.partition("[")[0]] = _upload(part)
    else:
        _add_text(fields, name, _text(part.value or b"", f"the field {name[:64]!r}"))


def _add_text(fields: dict[str, Any], name: str, value: str) -> None:
    if name in JSON_FIELDS and value not in NOTHING:
        try:
            fields[name] = read_object(value.encode(), name, Bounds(size=MAX_FIELD_BYTES))
        except PafuError as error:
            raise PafuError(error.kind.code, error.message, error.param or name) from None
    else:
        _put(fields, name, value)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PafuError("invalid_message", f"{what} is not UTF-8: {data[:32]!r}") from None


def _upload(file: File) -> Any:
    """The value of an uploaded file: the bytes of a picture, or the id of a video made here.

    OpenAI's client can only send files here. Our videos have their id as title (server.jobs.assemble), so it can send
    the video itself or a file with just the id.
    """
    file.file_object.seek(0)
    if file.field_name in PICTURES:
        return file.file_object.read()
    found = OWN_VIDEO.search(file.file_object.read(LOOK_BYTES))
    return {"id": found[0].decode()} if found else f"a file of {file.size} bytes"


def _put(fields: dict[str, Any], name: str, value: str) -> None:
    """Store ``a[b][c]=1`` as {"a": {"b": {"c": 1}}}, the usual form notation of objects."""
    first, *inner = re.split(r"\]\[|\[|\]$", name) if name.endswith("]") else [name]
    path = [first, *(part for part in inner if part)]
    if len(path) > MAX_DEPTH:
        raise PafuError("invalid_message", f"the field {name[:64]!r} is nested too deeply", first[:64])
    place = fields
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise PafuError("invalid_message", f"the field {name[:64]!r} conflicts with another", first[:64])
    place[path[-1]] = _number(value) if len(path) > 1 else value


def _number(text: str) -> int | float | str:
    """The text as a number if possible, since forms have only text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
