"""Load settings: flags override variables, variables override the TOML file. Errors use the name that was set."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.checkpoints import hub
from server.config.environment import PREFIX, ConfigError, check_variables, from_files
from server.config.settings import NAMES, Settings, names_of
from server.errors import nearest

CONFIG_VARIABLE = "PAFU_CONFIG"
SECRETS = ("api_keys", "database")  # never shown in messages


def load_settings(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Load settings from the file (flag ``config`` or PAFU_CONFIG), the environment and the flags that are not None.

    Later sources override earlier ones. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    fields = Settings.model_fields
    check_variables(environ, fields, (CONFIG_VARIABLE, hub.CACHE_VARIABLE))
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    path = given.pop("config", None) or environ.get(CONFIG_VARIABLE)
    where = {name: f"--{name.replace('_', '-')}" for name in given}
    for name, (value, variable) in from_files(environ, fields).items():
        if name not in given:
            given[name], where[name] = value, variable
    if path:
        in_environment = {name.upper() for name in environ}
        said = read_config(Path(path)).items()
        in_file = {name: value for name, value in said if PREFIX + name.upper() not in in_environment}
        where = {name: f"{name} in {path}" for name in in_file} | where
        given = in_file | given
    try:
        return Settings.under_names(where, **given)
    except ValidationError as error:
        raise ConfigError(explained(error, where, environ)) from None


def wants_json(flags: Mapping[str, Any]) -> bool:
    """Whether to log JSON. Works even if other settings are invalid, so that their errors are logged in this format."""
    path = flags.get("config") or os.environ.get(CONFIG_VARIABLE)
    try:
        said = read_config(Path(path)) if path else {}
    except ConfigError:
        said = {}
    return "json" == (flags.get("log_format") or os.environ.get(f"{PREFIX}LOG_FORMAT") or said.get("log_format"))


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by field name. Raises ConfigError for an unreadable file or an unknown setting."""
    try:
        with path.open("rb") as file:
            settings = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from None
    for name in settings:
        if name not in Settings.model_fields:
            raise ConfigError(f"{path}: unknown setting {name!r}; {nearest(name, list(Settings.model_fields))}")
        if isinstance(settings[name], list) and (
            name not in NAMES or not all(isinstance(v, str) for v in settings[name])
        ):
            raise ConfigError(f"{path}: {name} must not be the list {settings[name]!r}")
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in settings.items()}


def explained(error: ValidationError, called: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """The first error, prefixed with the names of the settings at fault."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    cause = first.get("ctx", {}).get("error")
    if not first["loc"]:  # conflicting settings
        given = {name.upper() for name, value in environ.items() if value}
        at_fault = cause.fields if isinstance(cause, ConfigError) else ()
        names = names_of([name for name in at_fault if name in called or PREFIX + name.upper() in given], called)
        return f"{names}: {reason}" if names else reason
    field = str(first["loc"][0])
    if first["type"] == "string_pattern_mismatch":
        reason = f"allowed: {Settings.model_fields[field].description}"
    shown = "" if field in SECRETS else f"got {first['input']!r}: "
    return f"{names_of([field], called)}: {shown}{reason}"
