"""Limits on open connections: per address, and in total by the number of open files."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import time
from collections import Counter

from server.config.addresses import Network, is_address
from server.telemetry.observer import Observer

log = logging.getLogger("pafu")

SPARE_FILES = 128  # for databases, journals, workers and served files
MANY_FILES = 65_536
SAY_AGAIN = 60.0  # seconds between two log lines


def file_limit() -> int:
    """The limit on open files of this process; RLIM_INFINITY counts as MANY_FILES."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MANY_FILES if soft == resource.RLIM_INFINITY else soft


def raise_file_limit() -> None:
    """Raise the limit on open files of this process and its children, at most to MANY_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(transport: asyncio.BaseTransport) -> str:
    """The peer's IP address, or ""."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


class ConnectionLimit:
    """Counts connections. Only the total limit applies to ``proxies``, which connect for many clients."""

    def __init__(self, per_address: int, files: int, proxies: tuple[Network, ...], observer: Observer) -> None:
        self._per_address, self._in_all = per_address, max(1, files - SPARE_FILES)
        self._proxies, self._observer = proxies, observer
        self._open: Counter[str] = Counter()
        self._said = -SAY_AGAIN

    def enter(self, address: str) -> bool:
        """Count a new connection from this address; False if it must be closed (it counts until ``leave``)."""
        self._open[address] += 1
        self._observer.connections(self._open.total())
        most = self._in_all if self._is_proxy(address) else self._per_address
        if self._open[address] <= most and self._open.total() <= self._in_all:
            return True
        self._observer.connection_refused()
        if time.monotonic() - self._said >= SAY_AGAIN:
            self._said = time.monotonic()
            log.warning(
                "refusing connections: %s has %d of %d, in total %d of %d (see PAFU_MAX_CONNECTIONS_PER_ADDRESS and "
                "ulimit -n; list a proxy in PAFU_TRUSTED_PROXIES)",
                *(address, self._open[address] - 1, most, self._open.total() - 1, self._in_all),
            )
        return False

    def leave(self, address: str) -> None:
        """A connection from this address has closed."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
        self._observer.connections(self._open.total())

    def _is_proxy(self, address: str) -> bool:
        return is_address(address) and any(ipaddress.ip_address(address) in network for network in self._proxies)
