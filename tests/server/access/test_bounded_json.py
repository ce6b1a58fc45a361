"""Promise: untrusted JSON is measured before it is parsed; nothing over a limit reaches a parser."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access import bounded_json
from server.access.bounded_json import Bounds, check, read_object
from server.errors import PafuError

BOUNDS = Bounds(size=1024, strings=16, depth=4, large={"image_url": 10_000})
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

PASSED = {
    "many keys": (b'{"a":1,' + b",".join(b'"%d":1' % n for n in range(17)) + b"}", "invalid_message"),
    "a long text": (b'{"prompt":"' + b"x" * 1025 + b'"}', "message_too_large"),
    "many numbers": (b'{"a":[' + b"1," * 600 + b"1]}", "message_too_large"),
    "blanks": (b'{"a":' + b" " * 1025 + b"1}", "message_too_large"),
    "deep arrays": (b"[" * 5 + b"]" * 5, "invalid_json"),
    "deep objects": (b'{"a":' * 5 + b"1" + b"}" * 5, "invalid_json"),
    "a picture that is too large": (b'{"image_url":"' + b"A" * 10_001 + b'"}', "message_too_large"),
    "a picture that is a key": (b'{"image_url":1,"' + b"A" * 5000 + b'":1}', "message_too_large"),
    "a picture beside its field": (b'{"image_url":"","x":"' + b"A" * 5000 + b'"}', "message_too_large"),
    "a text that never ends": (b'{"a":"' + b"x" * 2000, "message_too_large"),
    "escaped quotes": (b'{"image_url":"' + b'\\"' * 1000 + b'"}', "invalid_message"),
    "backslashes": (b'{"image_url":"' + b"\\" * 65 + b'",' + b"1," * 2000 + b'"}', "invalid_json"),
    "UTF-16": ('{"image_url":"' + "A" * 5000 + '"}').encode("utf-16"),
}


@pytest.mark.parametrize("name", PASSED)
def test_what_passes_a_bound_is_refused_unparsed(name, monkeypatch) -> None:
    text, code = PASSED[name] if isinstance(PASSED[name], tuple) else (PASSED[name], "message_too_large")
    monkeypatch.setattr(bounded_json.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(PafuError, match="the message") as refused:
        read_object(text, "the message", BOUNDS)
    assert refused.value.kind.code == code


def test_a_large_picture_is_read_beside_small_fields() -> None:
    text = json.dumps({"prompt": 'a "red" mill \\ and', "input_reference": {"image_url": "A" * 10_000}})
    assert len(read_object(text.encode(), "the body", BOUNDS)["input_reference"]["image_url"]) == 10_000


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"{", "invalid_json"), (b"", "invalid_json"), (b"[]", "invalid_message"), (b"\xff", "invalid_json")]
    + [(b'{"a": NaN}', "invalid_json"), (b"1" * 1000, "invalid_message"), (b"7" * 5000, "message_too_large")],
)
def test_what_is_no_object_is_refused_by_name(text, code) -> None:
    with pytest.raises(PafuError) as refused:
        read_object(text, "the body", BOUNDS)
    assert refused.value.kind.code == code


HIDING = "\u2222\u6d69\u6761\u2265\u203a"  # in UTF-16: "" image" :  and the next quote begins a picture


@pytest.mark.parametrize("kind", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_what_is_measured_as_utf_8_is_not_read_as_anything_else(kind) -> None:
    text = '{"k":["' + HIDING + '",' + "[" * 9 + "1," * 3000 + "1" + "]" * 9 + "]}"
    with pytest.raises(PafuError) as refused:
        read_object(text.encode(kind), "the body", Bounds(large={"image": 10**6}))
    assert refused.value.kind.code == "invalid_json"
    assert read_object(b'\xef\xbb\xbf{"a": 1}', "the body", BOUNDS) == {"a": 1}, "a byte order mark does no harm"


@given(st.dictionaries(st.text(max_size=8), values, max_size=4), st.booleans())
def test_every_small_object_is_read_as_json_reads_it(value, ascii_only) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert read_object(text, "the body", Bounds(depth=64)) == value


@given(values)
def test_what_is_measured_is_what_is_there(value) -> None:
    """Strings and depth are counted as the parser sees them: exactly at the limit is accepted, one more is refused."""

    def strings(part) -> int:
        if isinstance(part, dict):
            return len(part) + sum(map(strings, part.values()))
        return sum(map(strings, part)) if isinstance(part, list) else int(isinstance(part, str))

    def depth(part) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    text = json.dumps(value).encode()
    slack = text.count(b'\\"') // bounded_json.ESCAPES_PER_STRING + 1 if b'\\"' in text else 0
    check(text, "the body", Bounds(depth=depth(value), strings=strings(value) + slack))
    if depth(value):
        with pytest.raises(PafuError, match="deeply"):
            check(text, "the body", Bounds(depth=depth(value) - 1))
    if strings(value):
        with pytest.raises(PafuError, match="keys and strings"):
            check(text, "the body", Bounds(strings=strings(value) - 1))
