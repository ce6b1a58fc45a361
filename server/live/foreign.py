"""Fields of other servers: what asks for nothing, or for what the model does anyway, is taken everywhere; the rest is
refused in one sentence, whether it comes over a socket, as JSON or in a form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.errors import PafuError

DISTILLED = "the model is distilled and takes no"


def never(_: Any) -> bool:
    return False


def one(value: Any) -> bool:
    """1, 1.0, "1" as a form has it."""
    try:
        return not isinstance(value, bool) and float(value) == 1
    except (TypeError, ValueError):
        return False


def off(value: Any) -> bool:
    return value in (False, 0, "false", "False", "0")


# What asks for nothing besides null and emptiness, and why anything else is refused.
FOREIGN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "negative_prompt": (never, f"{DISTILLED} negative prompt; leave it out"),
    "guidance_scale": (one, f"{DISTILLED} guidance; leave it out, or send 1"),
    "guidance_scale_2": (one, f"{DISTILLED} guidance; leave it out, or send 1"),
    "true_cfg_scale": (one, f"{DISTILLED} guidance; leave it out, or send 1"),
    "flow_shift": (never, "the schedule belongs to the model; leave it out"),
    "boundary_ratio": (never, "the schedule belongs to the model; leave it out"),
    "negative_prompt_2": (never, f"{DISTILLED} negative prompt; leave it out"),
    "num_outputs_per_prompt": (one, "one video is made at a time; leave it out, or send 1"),
    "lora": (never, "the server's weights are what they are; leave it out"),
    "n": (one, "one video is made at a time; leave it out, or send 1"),
    "quality": (lambda value: value in ("standard", "auto"), "there is one quality; leave it out, or send standard"),
    "enable_stage2": (off, "the model has one stage; leave it out"),
    "is_enable_stage2": (off, "the model has one stage; leave it out"),
    "user": (lambda value: isinstance(value, str), "it must be a text"),  # OpenAI's; not kept
}


def taken(fields: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The fields without the foreign ones, all of which ask for nothing. Raises PafuError unsupported."""
    kept = {}
    for name, value in fields.items():
        if name in FOREIGN:
            neutral, reason = FOREIGN[name]
            if value not in (None, "", [], {}) and not neutral(value):
                raise PafuError("unsupported", f"{path}{name}: {reason}", f"{path}{name}")
        else:
            kept[name] = value
    return kept
