"""The table of what a model takes, before it is loaded; counted in a process of its own: the front has no torch."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from server.config import Settings
from server.config.devices import Slot
from server.engine.slots import slots_for
from server.process import available_bytes

if TYPE_CHECKING:
    from model.memory import MemoryPlan

GIB = 2**30
Rows = list[tuple[str, ...]]


def counted(settings: Settings) -> tuple[Rows, str | None]:
    """The table's rows, and why the model does not fit on the first device (None: it does). Raises MissingExtra."""
    slot = slots_for(settings)[0]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_count, settings, slot).result()


def show(rows: Rows, console: Console) -> None:
    """Print the table; a line for each row where a program reads."""
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000, highlight=False)
    table = Table("memory", "", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _count(settings: Settings, slot: Slot) -> tuple[Rows, str | None]:
    import torch

    from model.memory import plan, table
    from model.weights import preferred_dtype

    kind = torch.device(slot.device).type
    text = settings.text_placement == "device" or kind == "cpu"
    found = plan(settings.spec, settings.cache(), preferred_dtype(slot.device), kind, text_on_device=text)
    free = available_bytes() if kind == "cpu" else int(torch.cuda.mem_get_info(slot.device)[0])
    here = (f"here ({slot.device}, {free / GIB:.1f} GiB free)", free) if free else None
    return table(found, here), None if not free or found.sessions(free) else _too_large(settings, found, slot, free)


def _too_large(settings: Settings, found: MemoryPlan, slot: Slot, free: int) -> str:
    return (
        f"not enough memory for {settings.model} on {slot.device}: {found.least / GIB:.1f} GiB are needed for one "
        f"session, {free / GIB:.1f} GiB are free; lower --cache-budget-latents ({settings.cache().budget_latents:g}) "
        "or --size, choose --text-placement offload, a tiny --vae, or a smaller model"
    )
