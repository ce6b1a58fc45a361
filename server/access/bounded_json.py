"""Check untrusted JSON against bounds before parsing it, so that parsing time is limited.

``read_object`` scans from quote to quote with ``bytes.find`` and stops at the first exceeded bound. Only a text within
its bounds is parsed. Strings must be short, except in named fields (a picture as base64). The bounds also limit depth,
number of keys and the length of error messages.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from server.errors import PafuError

BRACKETS = re.compile(rb"[\[\]{}]")
BLANKS = b" \t\r\n"
MAX_NAME = 128
LARGE = 64 * 2**10  # bytes
T = TypeVar("T")
_parser = ThreadPoolExecutor(1, thread_name_prefix="parser")
ESCAPES_PER_STRING = 8  # so many escaped quotes count as one string
MAX_BACKSLASHES = 64  # in a row


@dataclass(frozen=True)
class Bounds:
    """Limits on a JSON text.

    ``size``: bytes, not counting the fields in ``large``, which maps a field to its own limit. ``strings``: number of
    strings, including keys. ``depth``: nesting of brackets. ``too_large``: error code for a text that is too long.
    """

    size: int = 64 * 2**10
    strings: int = 512
    depth: int = 16
    large: Mapping[str, int] = field(default_factory=dict)
    too_large: str = "message_too_large"


async def beside_the_loop(size: int, parse: Callable[..., T], *given: Any) -> T:
    """What ``parse(*given)`` returns. A text of ``size`` bytes that is large is parsed on a thread, one at a time."""
    if size < LARGE:
        return parse(*given)
    return await asyncio.get_running_loop().run_in_executor(_parser, parse, *given)


def read_object(data: bytes, what: str, bounds: Bounds) -> dict[str, Any]:
    """Parse a JSON object. Raises PafuError, whose message starts with ``what``, the name of the text."""
    check(data, what, bounds)
    try:  # only UTF-8: ``json`` would take UTF-16 too, whose quotes ``check`` does not see as it does
        value = json.loads(data.decode("utf-8-sig", "surrogatepass"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also huge integers and invalid UTF-8
        raise PafuError("invalid_json", f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise PafuError("invalid_message", f"{what} must be a JSON object, got {_kind(value)}")
    return value


def check(data: bytes, what: str, bounds: Bounds) -> None:
    """Raises PafuError if the text exceeds its bounds."""
    between, size, before = [], 0, b""
    for outside, string in _strings(data, what, bounds.strings):
        between.append(outside)
        most = bounds.large.get(before.decode(errors="replace"), 0) if outside.strip(BLANKS) == b":" else 0
        size += len(outside) + (0 if most else len(string))
        if size > bounds.size or most and len(string) > most:
            reason = f"{what} is longer than the {max(most, bounds.size)} bytes allowed here"
            raise PafuError(bounds.too_large, reason, before.decode(errors="replace") if most else None)
        before = string[:MAX_NAME]
    _check_depth(b"".join(between), what, bounds.depth)


def _strings(data: bytes, what: str, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield each string with the text before it, then the rest of the text with an empty string."""
    at, steps_left = 0, most * ESCAPES_PER_STRING
    while (begins := data.find(b'"', at)) >= 0:
        ends, steps_left = data.find(b'"', begins + 1), steps_left - ESCAPES_PER_STRING
        while ends > 0 and steps_left >= 0 and _escaped(data, ends, what):
            ends, steps_left = data.find(b'"', ends + 1), steps_left - 1
        if steps_left < 0:
            raise PafuError("invalid_message", f"{what} has more than the {most} keys and strings allowed here")
        ends = ends if ends > 0 else len(data)
        yield data[at:begins], data[begins + 1 : ends]
        at = ends + 1
    yield data[at:], b""


def _escaped(data: bytes, quote: int, what: str) -> bool:
    """Whether the quote follows an odd number of backslashes."""
    before = data[max(0, quote - MAX_BACKSLASHES) : quote]
    backslashes = len(before) - len(before.rstrip(b"\\"))
    if backslashes == MAX_BACKSLASHES:
        raise PafuError("invalid_json", f"{what} has {MAX_BACKSLASHES} backslashes in a row; fewer are allowed")
    return bool(backslashes % 2)


def _check_depth(between: bytes, what: str, most: int) -> None:
    depth = 0
    for found in BRACKETS.finditer(between):
        depth += 1 if found[0] in b"[{" else -1
        if depth > most:
            allowed = f"at most {most} nested brackets are allowed"
            raise PafuError("invalid_json", f"{what} is nested too deeply: {allowed}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number; numbers must be finite")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
