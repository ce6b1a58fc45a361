"""Promise: the AsyncAPI document matches the code: the same messages and schemas, also in the committed copy."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.json_schema import models_json_schema

from server.errors import ERRORS, PafuError
from server.http import asyncapi
from server.live import client_messages as protocol
from server.live import connection, delivery, steering
from server.live.foreign import unfolded
from server.live.server_messages import SERVER_MESSAGES

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = asyncapi.document()


def test_the_document_in_the_repository_is_the_codes() -> None:
    there = (ROOT / "docs" / "asyncapi.json").read_text()
    assert there == asyncapi.text(), "run python -m server.http.asyncapi docs/asyncapi.json"


def test_all_references_lead_somewhere() -> None:
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', asyncapi.text()))
    assert len(references) > len(SERVER_MESSAGES)
    for reference in references:
        place: Any = DOCUMENT
        for part in reference.split("/"):
            assert part in place, reference
            place = place[part]


def test_every_message_and_error_of_the_code_is_in_the_document() -> None:
    names = {message["name"] for message in DOCUMENT["components"]["messages"].values()}
    assert names == {*protocol.CLIENT_MESSAGES, *SERVER_MESSAGES, asyncapi.CHUNK}
    assert set(DOCUMENT["x-errors"]) == set(ERRORS)
    source = "".join(inspect.getsource(module) for module in (connection, delivery, steering))
    unsaid = [kind.__name__ for kind in SERVER_MESSAGES.values() if not re.search(rf"\b{kind.__name__}\b[(.]", source)]
    assert unsaid == ["SessionPaused", "SessionResumed"], "a message that no connection sends (these two: see _pause)"


def test_no_two_schemas_share_a_name() -> None:
    """Otherwise one would hide the other: client and server messages may have parts with the same name."""
    schemas = DOCUMENT["components"]["schemas"]
    _, spoken = msgspec.json.schema_components(SERVER_MESSAGES.values(), ref_template=asyncapi.SCHEMA)
    received = [(model, "validation") for model in protocol.CLIENT_MESSAGES.values()]
    template = asyncapi.SCHEMA.format(name="{model}")
    _, parsed = models_json_schema(received, ref_template=template)  # type: ignore[arg-type]
    assert schemas == {**spoken, **parsed["$defs"]} == {**parsed["$defs"], **spoken}


def schema_of(kind: str) -> dict[str, Any]:
    payload = DOCUMENT["components"]["messages"][kind]["payload"]
    return {**payload, "components": DOCUMENT["components"]}


def allowed(message: dict[str, Any]) -> bool:
    """According to the document."""
    return jsonschema.Draft202012Validator(schema_of(message["type"])).is_valid(message)


def parses(message: dict[str, Any]) -> bool:
    """According to the code."""
    try:
        protocol.parse(json.dumps(message))
    except PafuError:
        return False
    return True


scalars = (
    st.none() | st.booleans() | st.integers(-5, 500) | st.floats(-5, 5).filter(lambda x: x % 1) | st.text(max_size=3)
)
LIKELY = {
    "prompt": st.just("a mill"),
    "pan": st.sampled_from(["left", "right", "hold", "up"]),
    "speed": st.sampled_from([-4, 0, 3, 4, 10_000]),
    "cut_to": st.sampled_from([0, 1.5, 1e9]),
    "event_id": st.sampled_from(["e", "", "x" * 129]),
    "position_seconds": st.sampled_from([0, 1.5, -1, 1e10]),
    "transition_chunks": st.sampled_from([0, 64, 65]),
    "at_chunk": st.sampled_from([0, 7, -1, 2**60]),
}


def objects(fields: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, sometimes with a wrong type or an extra field."""
    parts = {name: strategy | scalars for name, strategy in fields.items()}
    return st.fixed_dictionaries({}, optional={**parts, "stranger": scalars})


camera = objects({name: LIKELY[name] for name in ("speed", "pan", "cut_to")})
event = objects({"prompt": LIKELY["prompt"], "multi_modal_data": objects({"camera": camera})})
interaction = objects(
    {"event": event, **{name: LIKELY[name] for name in ("event_id", "transition_chunks", "at_chunk")}}
)
cache = objects({"policy": st.just("window"), "budget_latents": st.floats(1, 9), "sink_latents": st.integers(-1, 9)})
start = objects(
    {
        "prompt": LIKELY["prompt"],
        "num_frames": st.integers(0, 99),
        "seed": st.integers(-1, 2**64),
        "streaming_buffer_seconds": st.floats(-1, 9),
        "extra_params": objects({"cache": cache}),
        "interactions": st.lists(interaction, max_size=2),
    }
)
BODIES = {
    "session.start": start,
    "session.interaction": objects({"interaction": interaction}),
    "session.playback": objects({"position_seconds": LIKELY["position_seconds"]}),
}


@pytest.mark.parametrize("kind", list(protocol.CLIENT_MESSAGES))
@given(data=st.data())
def test_the_code_accepts_exactly_what_the_document_allows(kind, data) -> None:
    message = {"type": kind, **data.draw(BODIES.get(kind, objects({})))}
    asked = unfolded(message) if kind == "session.start" else message  # any field may ask for nothing there
    assert allowed(asked) == parses(message), message


async def test_the_document_is_served(server) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        assert (await client.get("/asyncapi.json")).json() == json.loads(asyncapi.text())
