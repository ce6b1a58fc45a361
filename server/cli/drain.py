"""``pafu drain``: take one worker of a running server out of service while the others serve, or take it back."""

from __future__ import annotations

import time
from typing import Annotated, Any

import httpx
import typer

from server.access.operator import Operator
from server.cli.console import console, fail, say
from server.cli.options import takes_settings
from server.config import Settings
from server.states import WorkerState

ASK_WITHIN = 30.0
POLL_SECONDS = 0.5


@takes_settings("config")
def drain(
    settings: Settings,
    worker: Annotated[str, typer.Argument(help="its number or its device, as /health lists them: 1, cuda:1")],
    undo: Annotated[bool, typer.Option("--undo", help="take it back; one that was given up is started again")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="return when its process has ended")] = False,
    url: Annotated[str, typer.Option(help="address of the server")] = "http://127.0.0.1:8000",
) -> None:
    """Give a worker no more sessions, move those that it has to the others, and end it behind the last."""
    operator = Operator(settings.data_dir)
    if (secret := operator.read()) is None:
        raise fail(f"{operator.path} cannot be read; run this as the user of the server, with its PAFU_DATA_DIR")
    ask = httpx.Client(base_url=url, headers={"authorization": f"Bearer {secret}"}, timeout=ASK_WITHIN, trust_env=False)
    with ask:
        found = _asked(ask, "DELETE" if undo else "POST", worker)
        _tell(found)
        if wait and not undo:
            with console.status(f"worker {found['worker']} drains ..."):
                while found["status"] == WorkerState.DRAINING.value:
                    time.sleep(POLL_SECONDS)
                    found = _asked(ask, "POST", worker)
            _tell(found)


def _asked(ask: httpx.Client, method: str, worker: str) -> dict[str, Any]:
    """The worker as it now stands."""
    try:
        reply = ask.request(method, f"/v1/workers/{worker}/drain")
        body: dict[str, Any] = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise fail(f"no answer of a Pafu server at {ask.base_url}: {error}") from None
    if reply.status_code != 200:
        raise fail(str(body.get("error", {}).get("message", reply.status_code)))
    return body


def _tell(found: dict[str, Any]) -> None:
    left = f", {found['sessions']} sessions left" if found["sessions"] else ""
    say(f"worker {found['worker']} ({found['device']}) is {found['status']}{left}")
