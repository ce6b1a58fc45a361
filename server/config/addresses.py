"""Parse hosts, origins and networks from settings. A value that could never match is refused with a correction."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def host(text: str) -> str:
    """A host name or address, without scheme, port and path. Raises ValueError."""
    if "*" in text:
        raise ValueError(f"{text!r} has a wildcard: list every host name of the server instead")
    bare = text.strip("[]").lower()
    if HOST.fullmatch(bare) or is_address(bare):
        return bare
    try:
        inside = urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        inside = ""
    raise ValueError(f"{text!r} is not a host name" + (f": write {inside!r}" if HOST.fullmatch(inside) else ""))


def origin(text: str) -> str:
    """``scheme://host[:port]`` in lower case, as browsers send it. Raises ValueError."""
    if text == "*":
        raise ValueError("'*' would let every web page use this server: list the origins")
    try:
        parts = urlsplit(text.lower().rstrip("/"))
        port, name = parts.port, parts.hostname
    except ValueError:
        raise ValueError(f"{text!r} is not an origin: write https://HOST or https://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not name or "*" in text:
        bare = text.rpartition("//")[2].strip("/*.")
        hint = f": write 'https://{bare}'" if HOST.fullmatch(bare.lower()) else ""
        raise ValueError(f"{text!r} is not an origin: it must begin with http:// or https://{hint}")
    if parts.path or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text!r} is not an origin: drop everything after {parts.scheme}://{parts.netloc}")
    usual = {"http": 80, "https": 443}[parts.scheme]
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in (None, usual) else "")


def network(text: str) -> Network:
    """An address or a network such as 10.0.0.0/8. Raises ValueError."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a proxy address: write 10.1.2.3, 10.0.0.0/8 or an IPv6 address") from None


def path(text: str) -> str:
    """A route's path. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not a path: write {'/' + text!r}")
    return text


def is_address(name: str) -> bool:
    """Whether ``name`` is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def is_loopback(name: str) -> bool:
    return is_localhost(name) or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def page_address(host: str, port: int) -> str:
    """The page's URL for a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"
