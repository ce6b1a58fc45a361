"""Conditions and ranges of a download, as RFC 9110 (sections 13 and 14) has them.

``etag`` and ``changed`` are the file's own ETag and Last-Modified.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import parsedate_to_datetime

from starlette.datastructures import Headers

RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def is_another(headers: Headers, etag: str, changed: str) -> bool:
    """Whether the caller wants another file than this one (If-Match, else If-Unmodified-Since)."""
    if (tags := headers.get("if-match")) is not None:
        return not _has(tags, etag)
    return (since := _date(headers.get("if-unmodified-since"))) is not None and parsedate_to_datetime(changed) > since


def is_known(headers: Headers, etag: str, changed: str) -> bool:
    """Whether the caller has this file (If-None-Match, else If-Modified-Since)."""
    if (tags := headers.get("if-none-match")) is not None:
        return _has(tags, etag)
    return (since := _date(headers.get("if-modified-since"))) is not None and parsedate_to_datetime(changed) <= since


def wanted_range(headers: Headers, etag: str, changed: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """Start and stop (exclusive) of the Range; None: the whole file; (): not satisfiable."""
    if headers.get("if-range", etag) not in (etag, changed):
        return None
    found = RANGE.fullmatch(headers.get("range", "").strip())
    if not found or found[1] == found[2] == "":
        return None  # several ranges or other units: the whole file is a valid answer
    if not found[1]:
        return (max(0, size - int(found[2])), size) if int(found[2]) else ()
    start = int(found[1])
    if found[2] and int(found[2]) < start:
        return None  # invalid, so ignored
    stop = min(size, int(found[2]) + 1) if found[2] else size
    return (start, stop) if start < stop else ()


def _has(tags: str, etag: str) -> bool:
    return tags.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))


def _date(text: str | None) -> datetime | None:
    """None for what is no HTTP date, which is ignored."""
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo else None
