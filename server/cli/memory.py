"""The memory table of a model, before it is loaded; computed in a child process, since the front has no torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from server.config import Settings
from server.config.devices import Slot
from server.engine.slots import slots_for
from server.ipc.messages import Parts
from server.process import available_bytes
from server.telemetry import logs

GIB = 2**30
log = logging.getLogger("pafu")
Rows = list[tuple[str, ...]]


def counted(settings: Settings, checked: bool = False) -> tuple[Rows, str | None]:
    """The table's rows for the first worker that the model fits on, else for the first, and why it fits on none (None:
    it fits).

    Raises MissingExtra, ConfigError for a device that does not exist, and if the weights are to be ``checked``
    WeightsError.
    """
    slots = slots_for(settings)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        if checked:
            process.submit(check_weights, settings).result()
        return process.submit(count_one_of, settings, slots).result()


def check_weights(settings: Settings) -> None:
    """Raise WeightsError for what can be told of the files of a large model without reading its weights."""
    from model.checkpoints import hub
    from model.spec import RANDOM_WEIGHTS
    from model.weights import check_model
    from server.worker.generator import beside

    spec, head = settings.spec, settings.salience_head
    if settings.weights is None and settings.model in RANDOM_WEIGHTS:
        return
    near = beside(Parts.of(settings), spec)
    place = None if settings.weights is None else hub.locate(settings.weights, spec)
    check_model(spec, place, None if head is None else Path(head), near)


def count_one_of(settings: Settings, slots: Sequence[Slot]) -> tuple[Rows, str | None]:
    """As ``counted``, in this process."""
    found = []
    for slot in {slot.device: slot for slot in slots}.values():  # several CPU workers are alike
        found.append(count(settings, slot))
        if found[-1][1] is None:
            return found[-1]
    return found[0]


def show(rows: Rows, console: Console) -> None:
    """Print the table; not on a terminal, one line per row; with JSON logs, as log lines."""
    if logs.in_json():
        for row in rows:
            log.info("memory: %s", " | ".join(row))
        return
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000, highlight=False)
    table = Table("memory", *rows[0][1:], box=None, pad_edge=False)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def count(settings: Settings, slot: Slot) -> tuple[Rows, str | None]:
    """As ``counted``, for one worker, in this process."""
    import torch

    from model.cost.memory import CARDS, LEFT_FREE, fitting, of_another, plan, table
    from model.weights import preferred_dtype

    spec, cache, first, size = settings.spec, settings.cache(), slot.devices[0], len(slot.devices)
    kind, placement, dtype = torch.device(first).type, settings.text_placement, preferred_dtype(first)
    codec = _codec(settings)
    here = on_card = plan(spec, cache, dtype, kind, placement, size, codec)
    where = "" if size == 1 else f", first of {size}"
    plans = {f"on {first}{where}": here}
    if size > 1:
        plans["on each other"] = of_another(here)
    if kind != "cuda":
        on_card = plans[f"on a GPU{where}"] = plan(spec, cache, torch.bfloat16, "cuda", placement, size, codec)
    fits, too_large = {}, None
    if kind == "cpu":  # shared with the other CPU processes
        free = round(slot.memory_share * available_bytes())
    else:
        free = min(torch.cuda.mem_get_info(each)[0] for each in slot.devices)
    if free:
        would = fitting(here, spec, cache, dtype, free)
        alike = round(1 / slot.memory_share)
        each = f" for each of {alike} processes" if alike > 1 else ""
        fits[f"here: {free / GIB:.1f} GiB free{each}"] = would
        if not here.sessions(free):
            too_large = (
                f"not enough memory for {settings.model} on {slot.device}: one session needs "
                f"{here.least / GIB:.1f} GiB, {free / GIB:.1f} GiB are free{each}; it {would}: free memory, reduce "
                "--size, use a tiny --vae, or choose a smaller model"
            )
    for size in CARDS:
        room = round(size * 1e9 * (1 - LEFT_FREE))
        fits[f"{size} GB card"] = fitting(on_card, spec, cache, torch.bfloat16, room)
    return table(plans, fits), too_large


def _codec(settings: Settings) -> str | None:
    """The video codec in the files that will be loaded, if it is not the spec's own."""
    from model.checkpoints import hub
    from model.checkpoints.errors import WeightsError
    from model.checkpoints.public import codec_named
    from server.worker.generator import beside

    if settings.weights is None:
        return None
    try:
        return codec_named(hub.locate(settings.weights, settings.spec), beside(Parts.of(settings), settings.spec))
    except WeightsError:
        return None
