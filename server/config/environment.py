"""Settings from variables: which ones are ours, which an orchestrator puts there unasked, which name a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from server.errors import nearest

PREFIX = "PAFU_"
OTHER_VARIABLES = ("PAFU_TEST_",)  # beginnings of variables that are not for the server
CLIENT_VARIABLES = ("PAFU_API_KEY",)  # what clients on the same machine read
# Kubernetes tells every pod of every Service of its namespace: one called pafu, or pafu-anything, looks like ours.
SERVICE_LINK = re.compile(r"PAFU_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class ConfigError(ValueError):
    """A setting that cannot work; the message says what is wrong and what is allowed.

    ``fields``: the settings at fault; ``Settings.explained`` calls them by the names under which the user set them.
    """

    def __init__(self, reason: str, *fields: str) -> None:
        super().__init__(reason)
        self.fields = fields


def check_variables(environ: Mapping[str, str], settings: Collection[str], also: Collection[str]) -> None:
    """A misspelt variable would be ignored in silence: name it and the nearest known one. Raises ConfigError.

    ``settings``: names of fields; ``also``: other variables of ours.
    """
    known = [PREFIX + name.upper() for name in settings] + list(also)
    for given, value in environ.items():
        name = given.upper()
        if not name.startswith(PREFIX) or given.startswith(OTHER_VARIABLES) or given in CLIENT_VARIABLES:
            continue
        link = bool(SERVICE_ADDRESS.match(value))
        if name in known and link and name.endswith("_PORT"):
            raise ConfigError(
                f"{given}={value} comes from Kubernetes, for a Service of this name: set enableServiceLinks: false in "
                f"the pod, set {given} to a number there, or give the Service another name"
            )
        ours = name in known or name.removesuffix("_FILE") in known
        if not ours and not SERVICE_LINK.fullmatch(name) and not (link and name.endswith("_PORT")):
            raise ConfigError(f"unknown environment variable {given}; {nearest(name, known)}")


def from_files(environ: Mapping[str, str], settings: Collection[str]) -> dict[str, tuple[str, str]]:
    """Value and variable of each setting whose variable, with ``_FILE`` behind it, names a file: how secrets are
    mounted. Raises ConfigError when a file cannot be read, or both variables are set."""
    found = {}
    for name in settings:
        variable = f"{PREFIX}{name.upper()}"
        path = environ.get(f"{variable}_FILE")
        if not path or f"{name}_file" in settings:
            continue
        if environ.get(variable):
            raise ConfigError(f"{variable} and {variable}_FILE are both set; leave one out")
        try:
            found[name] = (Path(path).read_text().strip(), f"{variable}_FILE")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"{variable}_FILE: {path} cannot be read: {reason}") from None
    return found
