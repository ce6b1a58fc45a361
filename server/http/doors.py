"""How many connections there may be: of one address, and in all, before the system has no file left for another."""

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

SPARE_FILES = 128  # databases, journals, the worker's line, files that are served
MANY_FILES = 65_536
SAY_AGAIN = 60.0  # seconds


def file_limit() -> int:
    """Files that this process may have open; RLIM_INFINITY counts as MANY_FILES."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MANY_FILES if soft == resource.RLIM_INFINITY else soft


def raise_file_limit() -> None:
    """Let this process and its children open as many files as the system allows, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(transport: asyncio.BaseTransport) -> str:
    """Where the connection comes from."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


class Doors:
    """Counts connections; ``proxies`` may hold as many as there may be in all, since they hold them for others."""

    def __init__(self, per_address: int, files: int, proxies: tuple[Network, ...], observer: Observer) -> None:
        self._per_address, self._in_all = per_address, max(1, files - SPARE_FILES)
        self._proxies, self._observer = proxies, observer
        self._open: Counter[str] = Counter()
        self._said = -SAY_AGAIN

    def enter(self, address: str) -> bool:
        """Count one more connection of this address; False: it may not stay (and counts until it has left)."""
        self._open[address] += 1
        self._observer.connections(self._open.total())
        most = self._in_all if self._is_proxy(address) else self._per_address
        if self._open[address] <= most and self._open.total() <= self._in_all:
            return True
        self._observer.connection_refused()
        if time.monotonic() - self._said >= SAY_AGAIN:
            self._said = time.monotonic()
            log.warning(
                "connections are refused: %s has %d of %d, all have %d of %d (PAFU_MAX_CONNECTIONS_PER_ADDRESS, "
                "ulimit -n; a proxy belongs into PAFU_TRUSTED_PROXIES)",
                *(address, self._open[address] - 1, most, self._open.total() - 1, self._in_all),
            )
        return False

    def leave(self, address: str) -> None:
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
        self._observer.connections(self._open.total())

    def _is_proxy(self, address: str) -> bool:
        return is_address(address) and any(ipaddress.ip_address(address) in network for network in self._proxies)
