"""``pafu demo``: demonstrate the cache's memory."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli.console import fail, say
from server.cli.options import takes_settings
from server.cli.output import PICTURE, check, opened
from server.config import Settings
from server.errors import PafuError

app = typer.Typer(help="Demonstrate the cache's memory.", no_args_is_help=True)

PROMPT = "a meadow by day, a red house with a blue roof on the left and a white mill on the right"


@app.command()
@takes_settings("model", "weights", "device", "threads", "salience_head")
def memory(
    settings: Settings,
    prompt: Annotated[str, typer.Argument(help="the place to look at")] = PROMPT,
    output: Annotated[str, typer.Option("-o", "--output", help="PNG file to write, - for stdout")] = "memory.png",
    policies: Annotated[
        str, typer.Option(help="cache policies to compare, separated by commas")
    ] = "salient_retrieval,sink_window",
    budget: Annotated[
        float | None, typer.Option(help="cache budget in latent frames; default: the model's own")
    ] = None,
    away: Annotated[float, typer.Option(min=1, max=3600, help="seconds until the place is to be seen again")] = 50.0,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same place")] = 1,
    in_fog: Annotated[bool, typer.Option("--fog", help="the camera stays, and fog hides the place meanwhile")] = False,
) -> None:
    """Look at a place, pan away and return: writes the place before and after, one row per policy."""
    names = [name.strip() for name in policies.split(",") if name.strip()]
    from server.cli.generate import GenerateError
    from server.cli.revisit import save_rows, visits

    try:
        check(output, PICTURE)
        seen = list(visits(settings, prompt, names, budget, away, seed, in_fog))
        with opened(output) as file:
            save_rows(seen, file)
    except (PafuError, GenerateError, ValueError) as error:
        raise fail(str(error)) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise fail(f"cannot write {output}: {error.strerror or error}") from None
    for visit in seen:
        host = f" + {visit.host_bytes / 2**20:.1f} MiB of host memory" if visit.host_bytes else ""
        cache = f"{visit.cache_bytes / 2**20:.1f} MiB{host}"
        say(f"{visit.policy}: PSNR after the return {visit.likeness:.1f} dB, cache {cache}")
    say(f"{output}: before, {seen[0].hidden}, and after {away:g} s, one row per policy. What moves lowers PSNR")


@app.callback()
def demo() -> None:
    """Demonstrate the cache's memory."""
