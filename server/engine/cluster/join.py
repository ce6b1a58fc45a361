"""Join the Ray cluster, with clear errors; learn which of its nodes will leave."""

from __future__ import annotations

import ipaddress
import os
import socket

import ray
from ray._private import state
from ray._private.utils import read_ray_address
from ray.exceptions import RaySystemError

from server.config import ConfigError, Settings

REACH_WITHIN = 5.0  # seconds
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # HTTP/2's preface, empty settings
FRAME_HEADER, SETTINGS = 9, b"\x04"  # bytes of a frame's header; its type, the fourth, of a server's first frame
MOST_SAID = 300  # characters


def join(settings: Settings) -> None:
    """Join the cluster. Raises ConfigError if there is none, if the Ray or Python version differs, or if this machine
    is not a node of it."""
    address = find(settings)
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


def find(settings: Settings) -> str:
    """The address of the cluster, where something answers as one does. Raises ConfigError."""
    address = _running_here() if settings.ray_address == "auto" else settings.ray_address
    _reach(address)
    return address


def _running_here() -> str:
    """The address of this machine's cluster, as recorded by ``ray start``. Raises ConfigError."""
    if given := os.environ.get("RAY_ADDRESS"):
        _parsed(given, "RAY_ADDRESS: ")
        return given
    if address := read_ray_address():
        return str(address)
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
    """Check that a cluster may be at the address, since Ray would retry for minutes. Raises ConfigError."""
    try:
        with socket.create_connection(_parsed(address), REACH_WITHIN) as connection:
            answers = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_http2(connection)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"there is no Ray cluster at {address!r}: {why}", "ray_address") from None
    if not answers:
        reason = f"{address!r} is not a Ray cluster, something else listens there; give the address of `ray start`"
        raise ConfigError(reason, "ray_address")


def _parsed(address: str, whose: str = "") -> tuple[str, int]:
    """Host and port. Raises ConfigError; ``whose`` says where the address comes from."""
    if address.startswith("ray://"):
        reason = f"{whose}{address!r} is for Ray's clients; give host:port of the cluster, usually with port 6379"
        raise ConfigError(reason, "ray_address")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        reason = f"{whose}{address!r} is not the address of a Ray cluster: give host:port, like 10.0.0.5:6379"
        raise ConfigError(reason, "ray_address")
    return host.strip("[]"), int(port)


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the server answers as one of gRPC does, with its settings."""
    connection.sendall(HELLO)
    try:
        return connection.recv(FRAME_HEADER, socket.MSG_WAITALL)[3:4] == SETTINGS
    except OSError:  # silence
        return False


def leaving() -> frozenset[str]:
    """Ids of the nodes that Ray is told it will lose (a preemption, ``ray drain-node``). Ray offers this to its own
    libraries only; if this version does not, none is known, and sessions move when their node is gone."""
    try:
        return frozenset(state.state.get_draining_nodes())
    except (AttributeError, RaySystemError):
        return frozenset()


def first_line(error: BaseException) -> str:
    """The first line of a Ray error, which may be pages long."""
    said = getattr(error, "cause", None) or error  # the actor's exception, without its traceback
    first = next(filter(None, (line.strip() for line in str(said).splitlines())), type(error).__name__)
    return (
        " ".join(str(said).split())[:MOST_SAID] if first.endswith(":") else first
    )  # the first line only introduces a list
