"""Request fields of other servers' APIs. Values without effect are accepted; all others are refused with a reason.

The same rules hold for WebSocket messages, JSON bodies and forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.errors import PafuError

DISTILLED = "the model is distilled and has no"


def never(_: Any) -> bool:
    """No value is neutral."""
    return False


def one(value: Any) -> bool:
    """Whether the value is 1, 1.0 or a form's "1"."""
    try:
        return not isinstance(value, bool) and float(value) == 1
    except (TypeError, ValueError):
        return False


def off(value: Any) -> bool:
    """Whether the value means false."""
    return value in (False, 0, "false", "False", "0")


def flag(value: Any) -> bool:
    """Whether the value is true or false."""
    return off(value) or value in (True, 1, "true", "True", "1")


def usual(*names: str) -> Callable[[Any], bool]:
    """Only these names are neutral."""
    return lambda value: value in names


NOTHING: tuple[Any, ...] = (None, "", [], {}, "None", "null")  # forms send null as "", "None" or "null"
NEEDED = ("type", "prompt")  # told as empty, not as missing
STAGE = "the model has one stage; leave it out"
SILENT = "videos have no sound; leave it out"
RATE = "the frame rate is the model's own; leave it out"


# Field -> which values besides null and empty ones have no effect, and why all others are refused.
FOREIGN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "negative_prompt": (never, f"{DISTILLED} negative prompt; leave it out"),
    "guidance_scale": (one, f"{DISTILLED} guidance; leave it out, or send 1"),
    "guidance_scale_2": (one, f"{DISTILLED} guidance; leave it out, or send 1"),
    "true_cfg_scale": (one, f"{DISTILLED} guidance; leave it out, or send 1"),
    "flow_shift": (never, "the schedule belongs to the model; leave it out"),
    "boundary_ratio": (never, "the schedule belongs to the model; leave it out"),
    "negative_prompt_2": (never, f"{DISTILLED} negative prompt; leave it out"),
    "num_outputs_per_prompt": (one, "a request makes one video; leave it out, or send 1"),
    "lora": (never, "the server loads no LoRA; leave it out"),
    "n": (one, "a request makes one video; leave it out, or send 1"),
    "quality": (usual("standard", "auto", "default"), "there is one quality; leave it out, or send standard"),
    "enable_stage2": (off, STAGE),
    "is_enable_stage2": (off, STAGE),
    "pyramid_num_stages": (one, STAGE),
    "pyramid_num_inference_steps_list": (never, STAGE),
    "is_amplify_first_chunk": (off, STAGE),
    "generate_sound": (off, SILENT),
    "sound_duration": (never, SILENT),
    "enable_frame_interpolation": (off, RATE),
    "frame_interpolation_exp": (one, RATE),
    "frame_interpolation_scale": (one, RATE),
    "frame_interpolation_model_path": (never, RATE),
    "enable_teacache": (off, "the model skips no passes; leave it out"),
    "output_path": (never, "videos are fetched with GET /v1/videos/{id}/content; leave it out"),
    "aspect_ratio": (never, "the size is the model's own; leave it out"),
    "short_edge": (never, "the size is the model's own; leave it out"),
    "video_reference": (never, "a video begins with a picture or none; leave it out"),
    "audio_reference": (never, SILENT),
    "start_time_seconds": (never, "a video begins with a picture or none; leave it out"),
    "return_stage_metrics": (flag, "it must be true or false"),  # ours are always in inference_time_s and /metrics
    "reference_url": (never, "URLs are not fetched; send the picture itself as input_reference"),
    "user": (lambda value: isinstance(value, str), "it must be a string"),  # OpenAI's; not stored
}


BLOCKS = ("video_params", "sampling_params")  # vLLM-Omni's objects around fields of the request


def unfolded(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that ask for something, with those of BLOCKS beside the request's own, which take precedence.

    Raises PafuError.
    """
    inner: dict[str, Any] = {}
    for block in BLOCKS:
        if (given := fields.get(block)) in NOTHING:
            continue
        if not isinstance(given, dict):
            raise PafuError("invalid_message", f"{block} must be an object", block)
        inner |= given
    every = [*inner.items(), *((name, value) for name, value in fields.items() if name not in BLOCKS)]
    return {name: value for name, value in every if name in NEEDED or value not in NOTHING}


def taken(fields: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The fields without the foreign ones. Raises PafuError unsupported for a foreign field with an effect."""
    kept = {}
    for name, value in fields.items():
        if name == "model" and value in ("", "default"):  # sent by clients without a model name
            continue
        if name in FOREIGN:
            neutral, reason = FOREIGN[name]
            if value not in NOTHING and not neutral(value):
                raise PafuError("unsupported", f"{path}{name}: {reason}", f"{path}{name}")
        else:
            kept[name] = value
    return kept
