"""Find another Pafu server running on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import httpx

from server.config import Settings
from server.config.addresses import page_address

ASK_WITHIN = 3.0  # seconds
MIB = 2**20


@dataclass(frozen=True)
class Running:
    """Another Pafu server. ``reason``: why it accepts no sessions, if it does not.

    ``health``: its /health; None if that needs a key that PAFU_API_KEY does not provide.
    """

    url: str
    reason: str
    health: dict[str, Any] | None
    model: str

    @property
    def bytes(self) -> int:
        """Resident memory of its processes."""
        if self.health is None:
            return 0
        return sum(each["rss_bytes"] for each in (self.health["front"], *self.health["workers"]))

    def __str__(self) -> str:
        state = f"not ready: {self.reason}" if self.reason else "ready"
        if self.health is None:
            return f"Pafu runs at {self.url} ({state}; set PAFU_API_KEY to see more)"
        who = f"{self.model}, {state}, sessions: {self.health['sessions']}, workers: {len(self.health['workers'])}"
        return f"Pafu runs at {self.url}: {who}, process {self.health['front']['pid']}, {self.bytes / MIB:.0f} MiB"


def running(settings: Settings) -> Running | None:
    """The Pafu server at the address in the settings; None if there is none."""
    url, key = page_address(settings.host, settings.port), os.environ.get("PAFU_API_KEY")
    shown = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, timeout=ASK_WITHIN, headers=shown, trust_env=False) as client:
        try:
            ready = client.get("/readyz").json()
            health, models = client.get("/health"), client.get("/v1/models")
            seen = health.json() if "front" in health.json() else None
            model = models.json()["data"][0]["id"] if models.status_code == 200 else ""
            return Running(url, str(ready["reason"]), seen, model) if set(ready) == {"status", "reason"} else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError):
            return None  # no server, or not Pafu
