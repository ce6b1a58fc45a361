"""Settings from environment variables: catch misspelt names, ignore Kubernetes service links, read ``*_FILE``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from server.errors import nearest

PREFIX = "PAFU_"
OTHER_VARIABLES = ("PAFU_TEST_",)  # prefixes of variables that are not for the server
CLIENT_VARIABLES = ("PAFU_API_KEY",)  # read by clients on the same machine
# Kubernetes injects variables for every Service of the namespace; those of a Service named pafu or pafu-* start with
# PAFU_.
SERVICE_LINK = re.compile(r"PAFU_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class ConfigError(ValueError):
    """An invalid setting; the message says what is wrong and what is allowed.

    ``fields`` are the settings at fault. ``Settings.explained`` shows them under the names that the user set.
    """

    def __init__(self, reason: str, *fields: str) -> None:
        super().__init__(reason)
        self.fields = fields


def check_variables(environ: Mapping[str, str], settings: Collection[str], also: Collection[str]) -> None:
    """Refuse unknown ``PAFU_*`` variables, which would be ignored silently. Raises ConfigError with the nearest name.

    ``settings`` are field names; ``also`` are the other variables that Pafu reads.
    """
    known = [PREFIX + name.upper() for name in settings] + list(also)
    for given, value in environ.items():
        name = given.upper()
        if not name.startswith(PREFIX) or given.startswith(OTHER_VARIABLES) or given in CLIENT_VARIABLES:
            continue
        link = bool(SERVICE_ADDRESS.match(value))
        if name in known and link and name.endswith("_PORT"):
            raise ConfigError(
                f"{given}={value} was injected by Kubernetes for a Service of that name: set "
                f"enableServiceLinks: false in the pod, set {given} to a port number, or rename the Service"
            )
        ours = name in known or name.removesuffix("_FILE") in known
        if not ours and not SERVICE_LINK.fullmatch(name) and not (link and name.endswith("_PORT")):
            raise ConfigError(f"unknown environment variable {given}; {nearest(name, known)}")


def from_files(environ: Mapping[str, str], settings: Collection[str]) -> dict[str, tuple[str, str]]:
    """Settings read from the files that ``PAFU_<NAME>_FILE`` variables name, as for mounted secrets.

    Returns name -> (value, variable). Raises ConfigError if a file cannot be read or both variables are set.
    """
    found = {}
    for name in settings:
        variable = f"{PREFIX}{name.upper()}"
        path = environ.get(f"{variable}_FILE")
        if not path or f"{name}_file" in settings:
            continue
        if environ.get(variable):
            raise ConfigError(f"{variable} and {variable}_FILE are both set; unset one")
        try:
            found[name] = (Path(path).read_text().strip(), f"{variable}_FILE")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"{variable}_FILE: {path} cannot be read: {reason}") from None
    return found
