"""The listening socket; bound before anything slow is imported, so that a taken port is known at once."""

from __future__ import annotations

import errno
import socket

from server.config import ConfigError

NOTSENT_LOWAT_BYTES = 64 * 2**10  # unsent bytes the kernel takes: about 0.6 s of video instead of 8 s


def listen(host: str, port: int, setting: str = "port") -> socket.socket:
    """A bound, listening socket. Raises ConfigError, naming the ``setting``, when the address is taken or not ours."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # accepted sockets inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
        sock.bind(address)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise ConfigError(_why_not(host, port, setting, error)) from None
    return sock


def _why_not(host: str, port: int, setting: str, error: OSError) -> str:
    flag = f"--{setting.replace('_', '-')} or PAFU_{setting.upper()}"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken by another program; choose another with {flag}"
    if error.errno == errno.EACCES:
        return f"no right to listen on port {port}; choose one above 1023 with {flag}"
    return f"cannot listen on {host}:{port}: {error.strerror}"
