"""Proxies from the environment: never used for this machine's own addresses, and named in errors that they may
cause."""

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
    """Whether the address belongs to this machine."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def in_between(url: str) -> str:
    """The environment variables whose proxy may be used for this address; empty if none."""
    if is_here(url) or proxy_bypass(urlsplit(url).hostname or ""):
        return ""
    return ", ".join(name for name in os.environ if name.lower() in VARIABLES and os.environ[name])


def blamed(url: str, error: Exception) -> str:
    """The reason of an error, with the variables of proxies that may be its cause."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    names = in_between(url)
    return f"{reason} (by the proxy of {names}: unset it, or name the host in NO_PROXY)" if names else reason


def http_client(url: str, **options: Any) -> httpx.AsyncClient:
    """An HTTP client for this address. Raises PafuError for an invalid proxy."""
    try:
        return httpx.AsyncClient(base_url=url, trust_env=not is_here(url), **options)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise PafuError("connect_failed", f"no connection to {url}: {blamed(url, error)}") from None
