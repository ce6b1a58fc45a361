"""Settings as command options; name, type, help and variable come from the setting's field."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from server.cli.console import settings_from
from server.config import PREFIX, Settings
from server.config.loading import CONFIG_VARIABLE

MODEL = ("model", "weights", "text_encoder", "text_placement", "vae", "size", "device", "threads", "salience_head")
CACHE = ("cache_policy", "cache_budget_latents", "cache_window_latents", "cache_position_mode", "kv_dtype")
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
_CONFIG = Annotated[Path | None, typer.Option(help=f"TOML file with settings  [{CONFIG_VARIABLE}]")]
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that adds these settings as options ("config": the settings file) to a command.

    The command's first parameter ``settings`` receives flags over PAFU_* variables over the file over defaults. An
    invalid setting ends the command with one line.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_settings(**given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            command(settings_from(**flags), **given)

        own = [
            each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "settings"
        ]
        options = [inspect.Parameter(name, _KEYWORD, default=None, annotation=option(name)) for name in names]
        parameters = [each.replace(kind=_KEYWORD) for each in own] + options
        with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_settings.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_settings

    return decorated


def option(name: str) -> Any:
    """The annotated type of a setting's option; None means not given."""
    if name == "config":
        return _CONFIG
    field = Settings.model_fields[name]
    flag, kind = f"--{name.replace('_', '-')}", plain(field.annotation)
    usual = field.default
    told = isinstance(usual, (str, int, float)) and not isinstance(usual, bool)  # otherwise the description has it
    default = f", default {usual}" if told else ""
    words = (
        f"{', '.join(choices)}: {field.description}" if (choices := _choices(field.annotation)) else field.description
    )
    return Annotated[kind | None, typer.Option(flag, help=f"{words}  [{PREFIX}{name.upper()}{default}]")]


def plain(annotation: Any) -> Any:
    """The option's type: ``float`` for ``float | None``, ``str`` for literals, which the setting validates."""
    if get_origin(annotation) in (Union, types.UnionType):
        return plain(next(each for each in get_args(annotation) if each is not type(None)))
    return str if get_origin(annotation) is Literal else annotation


def _choices(annotation: Any) -> tuple[str, ...]:
    """The values of a ``Literal``, also in a union with None; empty for other types."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next(filter(None, map(_choices, get_args(annotation))), ())
