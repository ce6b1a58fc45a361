"""``pafu drain``: drain one worker of a running server while the others serve, or undo it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import httpx
import typer

from server.access.operator import Operator
from server.cli.console import console, fail, say
from server.cli.options import takes_settings
from server.config import Settings
from server.config.addresses import page_address
from server.states import WorkerState

ASK_WITHIN = 30.0  # seconds
POLL_SECONDS = 0.5


@takes_settings("config")
def drain(
    settings: Settings,
    worker: Annotated[str, typer.Argument(help="its number or device as in /health: 1, cuda:1")],
    undo: Annotated[
        bool, typer.Option("--undo", help="put it back into service; restarts it if it has stopped")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="wait until its process has stopped")] = False,
    url: Annotated[
        str | None, typer.Option(help="address of the server; default: from PAFU_HOST and PAFU_PORT")
    ] = None,
) -> None:
    """Give a worker no new sessions, move its sessions to other workers, then stop it."""
    operator = Operator(settings.data_dir)
    if (secret := operator.read()) is None:
        raise fail(f"{operator.path} cannot be read; run this as the server's user, with its PAFU_DATA_DIR")
    address = url or page_address(settings.host, settings.port)
    headers = {"authorization": f"Bearer {secret}"}
    ask = httpx.Client(base_url=address, headers=headers, timeout=ASK_WITHIN, trust_env=False)
    with ask:
        found = _asked(ask, "DELETE" if undo else "POST", worker)
        _tell(found)
        if wait and not undo:
            with console.status(f"draining worker {found['worker']} ..."):
                while found["status"] == WorkerState.DRAINING.value:
                    time.sleep(POLL_SECONDS)
                    found = _asked(ask, "POST", worker)
            _tell(found)


def _asked(ask: httpx.Client, method: str, worker: str) -> dict[str, Any]:
    """Send the request; the worker's new status."""
    try:
        reply = ask.request(method, f"/v1/workers/{worker}/drain")
        body: dict[str, Any] = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise fail(f"no answer from a Pafu server at {ask.base_url}: {error}") from None
    if reply.status_code != 200:
        raise fail(str(body.get("error", {}).get("message", reply.status_code)))
    return body


def _tell(found: dict[str, Any]) -> None:
    left = f", {found['sessions']} sessions left" if found["sessions"] else ""
    say(f"worker {found['worker']} ({found['device']}) is {found['status']}{left}")
