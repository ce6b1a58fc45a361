"""Proxies that the environment names: this machine passes them by, and what goes wrong with one is told by its name."""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx

from pafu_client.errors import PafuError

VARIABLES = ("https_proxy", "http_proxy", "wss_proxy", "ws_proxy", "socks_proxy", "all_proxy")


def is_here(url: str) -> bool:
    """Whether the address is one of this machine."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def in_between(url: str) -> str:
    """The variables whose proxies may stand before this address; empty where none does."""
    if is_here(url) or proxy_bypass(urlsplit(url).hostname or ""):
        return ""
    return ", ".join(name for name in os.environ if name.lower() in VARIABLES and os.environ[name])


def blamed(url: str, error: Exception) -> str:
    """What was wrong, with the variables of the proxies that may be the cause."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    names = in_between(url)
    return f"{reason} (by the proxy of {names}: unset it, or name the host in NO_PROXY)" if names else reason


def http_client(url: str, **options: Any) -> httpx.AsyncClient:
    """A client for this address. Raises PafuError for a proxy that cannot be used."""
    try:
        return httpx.AsyncClient(base_url=url, trust_env=not is_here(url), **options)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise PafuError("connect_failed", f"no connection to {url}: {blamed(url, error)}") from None
