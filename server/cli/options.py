"""Command options from one definition: from settings, and from dataclasses that group them."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
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
    """Decorator that adds these settings as options ("config": the settings file) to a command. Name, type, help and
    variable come from the setting's field.

    The command's first parameter ``settings`` receives flags over PAFU_* variables over the file over defaults. An
    invalid setting ends the command with one line.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_settings(**given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            command(settings_from(**flags), **given)

        own = [each for each in _parameters(command) if each.name != "settings"]
        options = [inspect.Parameter(name, _KEYWORD, default=None, annotation=option(name)) for name in names]
        return _declared(with_settings, [*own, *options])

    return decorated


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator: each parameter whose type is a dataclass becomes one option for each field of the dataclass."""
    groups: dict[str, Any] = {
        each.name: each.annotation for each in _parameters(command) if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def with_groups(**given: Any) -> None:
        grouped = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()
        }
        command(**grouped, **given)

    expanded = [_parameters(each.annotation) if each.name in groups else [each] for each in _parameters(command)]
    return _declared(with_groups, [option for options in expanded for option in options])


def _parameters(takes: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(takes, eval_str=True).parameters.values())


def _declared(command: Callable[..., None], parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """``command``, which typer sees with these parameters."""
    named = [each.replace(kind=_KEYWORD) for each in parameters]
    command.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in named}
    return command


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
