"""Join the Ray cluster, with clear errors."""

from __future__ import annotations

import ipaddress
import os
import socket

import ray
from ray._private.utils import read_ray_address

from server.config import ConfigError, Settings

REACH_WITHIN = 5.0  # seconds
MOST_SAID = 300  # characters


def join(settings: Settings) -> None:
    """Join the cluster. Raises ConfigError if there is none, if the Ray or Python version differs, or if this machine
    is not a node of it."""
    address = _running_here() if settings.ray_address == "auto" else settings.ray_address
    _reach(address)
    try:
        ray.init(
            address=address,
            namespace=settings.ray_namespace,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=_on_loopback(address),
        )
    except Exception as error:  # Ray raises many types
        raise ConfigError(
            f"the Ray cluster at {address!r} cannot be joined: {first_line(error)}", "ray_address"
        ) from None


def _running_here() -> str:
    """The address of this machine's cluster, as recorded by ``ray start``. Raises ConfigError."""
    if address := os.environ.get("RAY_ADDRESS") or read_ray_address():
        return address
    reason = "no Ray cluster runs on this machine: run `ray start`, or give host:port of one with --ray-address"
    raise ConfigError(reason, "ray_address")


def _on_loopback(address: str) -> str | None:
    """The node's address if the cluster is on loopback only; None: let Ray find it."""
    try:
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return None
    return str(host) if host.is_loopback else None


def _reach(address: str) -> None:
    """Check that the address accepts connections, since Ray would retry for minutes. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        reason = f"{address!r} is not the address of a Ray cluster: give host:port, like 10.0.0.5:6379"
        raise ConfigError(reason, "ray_address")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_WITHIN).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"there is no Ray cluster at {address!r}: {why}", "ray_address") from None


def first_line(error: BaseException) -> str:
    """The first line of a Ray error, which may be pages long."""
    said = getattr(error, "cause", None) or error  # the actor's exception, without its traceback
    first = next(filter(None, (line.strip() for line in str(said).splitlines())), type(error).__name__)
    return (
        " ".join(str(said).split())[:MOST_SAID] if first.endswith(":") else first
    )  # the first line only introduces a list
