"""Generates docs/settings.md and the example configuration from the groups of server/config/settings.py."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic.fields import FieldInfo

from server.cli.main import serve
from server.config import PREFIX
from server.config.settings import GROUPS

EXAMPLES: dict[str, Any] = {  # for settings without a default
    "metrics_port": 9090,
    "weights": "/weights/my-model",
    "text_encoder": "/weights/Wan2.1-T2V-1.3B",
    "vae": "/weights/taew2_1.safetensors",
    "size": "512x256",
    "salience_head": "/weights/my-model/salience.safetensors",
    "max_sessions": 4,
    "data_dir": "/var/lib/pafu",
    "database": "postgresql://pafu@127.0.0.1/pafu",
    "videos": "s3://bucket/videos",
    "sessions": "s3://bucket/sessions",
    "jobs_at_once": 2,
    "cache_policy": "pafu",
    "cache_budget_latents": 6.0,
    "cache_window_latents": 9.0,
    "cache_position_mode": "relative",
    "cache_sink_latents": 0.0,
    "cache_recent_latents": 1.5,
    "allowed_hosts": ["pafu.example.org"],
    "trusted_proxies": ["10.0.0.0/8"],
    "allowed_origins": ["https://www.example.org"],
    "api_keys": ["sha256:" + "0" * 64],
    "keys_file": "/etc/pafu/keys.toml",
    "max_sessions_per_key": 2,
    "max_jobs_per_key": 10,
    "requests_per_minute_per_key": 120,
    "public_paths": ["/metrics"],
}
INTRODUCTION = """\
Each setting is an environment variable and a key of the TOML file given by `--config` or `PAFU_CONFIG`:
`PAFU_PORT=8000` or `port = 8000`. Some are also flags of `pafu serve`.
Flags override variables, and variables override the file. `PAFU_HUB_CACHE`, the folder for
pulled weights, is only a variable.

Times are in seconds, sizes in bytes; lists in a variable are separated by commas. The
[example file](../deploy/pafu.example.toml) lists all settings."""


def settings_page(note: str) -> str:
    """docs/settings.md: every setting with allowed values, default and flag, by group."""
    lines = ["# Settings", "", f"<!-- {note} -->", "", INTRODUCTION]
    flags = inspect.signature(serve).parameters
    for group in GROUPS:
        lines += ["", f"## {group.heading}", "", "| setting | allowed | default | description |", "|---|---|---|---|"]
        for name, field in group.model_fields.items():
            flag = f", `--{name.replace('_', '-')}`" if name in flags else ""
            words = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{PREFIX}{name.upper()}`{flag} | {allowed(field)} | {default(name, field)} | {words} |")
    return "\n".join(lines) + "\n"


def example_toml(note: str) -> str:
    """A configuration file with every setting commented out, at its default or an example value."""
    lines = [f"# {note}", "# Every setting at its default, or an example value if it has none. See docs/settings.md."]
    for group in GROUPS:
        lines += ["", f"# ---- {group.heading}"]
        for name, field in group.model_fields.items():
            value = EXAMPLES.get(name, field.default)
            lines += ["", f"# {field.description}", f"# {name} = {json.dumps(value)}"]
    return "\n".join(lines) + "\n"


def default(name: str, field: FieldInfo) -> str:
    """The default as Markdown; empty without one."""
    if name == "data_dir":
        return "`~/.local/state/pafu`"
    return "" if field.default in (None, (), "") else f"`{json.dumps(field.default)}`".replace('"', "")


def allowed(field: FieldInfo) -> str:
    """A setting's type and bounds."""
    kinds = set(_kinds(field.annotation))
    names = {Path: "a path", str: "text", bool: "true, false", int: "whole number", float: "number", tuple: "list"}
    words = [names[kind] for kind in names if kind in kinds] or [", ".join(_choices(field.annotation))]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{signs[s]} {getattr(m, s):,}" for m in field.metadata for s in signs if getattr(m, s, None) is not None]
    return " ".join([words[0], ", ".join(bounds)]).strip()


def _choices(annotation: Any) -> Iterator[str]:
    """The values of a Literal, also inside unions."""
    for part in get_args(annotation):
        if get_args(part):
            yield from _choices(part)
        elif part is not NoneType:
            yield str(part)


def _kinds(annotation: Any) -> Iterator[type]:
    """The types in an annotation, also inside unions and ``tuple[str, ...]``."""
    origin = getattr(annotation, "__origin__", None)
    if isinstance(annotation, type) and origin is None:
        yield annotation
    elif origin is tuple:
        yield tuple
    else:
        yield from (kind for part in get_args(annotation) for kind in _kinds(part))
