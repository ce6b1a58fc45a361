"""The listening socket, bound before slow imports so that a port in use is reported at once."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from server.config import ConfigError

NOTSENT_LOWAT_BYTES = 64 * 2**10  # limit on unsent bytes in the kernel: about 0.6 s of video instead of 8 s


def listen(host: str, port: int, setting: str = "port", guarded: bool = False) -> socket.socket:
    """A bound, listening socket. Raises ConfigError, which names the ``setting``, if the address cannot be used.

    Addresses other than loopback need ``guarded``: keys are required, or the operator has allowed anonymous callers.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not guarded and not _is_loopback(address):
            raise ConfigError(_needs_keys(host), setting.replace("port", "host"))
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}: {error.strerror or error}", setting.replace("port", "host")
        ) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # accepted sockets inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
        sock.bind(address)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise _why_not(host, port, setting, error) from None
    return sock


def _is_loopback(address: tuple[Any, ...]) -> bool:
    return ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback


def _needs_keys(host: str) -> str:
    return (
        f"{host} is reachable from other machines, and without API keys anybody could use this "
        "server. Create a key (pafu keys add NAME --keys-file keys.toml) and serve with --keys-file keys.toml, "
        "or listen on 127.0.0.1, or allow it with --allow-anonymous"
    )


def _why_not(host: str, port: int, setting: str, error: OSError) -> ConfigError:
    flag = f"--{setting.replace('_', '-')} or PAFU_{setting.upper()}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} on {host} is in use by another program; choose another with {flag}", setting)
    if error.errno == errno.EACCES:
        return ConfigError(f"no permission to listen on port {port}; choose one above 1023 with {flag}", setting)
    return ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", setting.replace("port", "host"))
