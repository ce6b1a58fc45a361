"""Which workers to start: the device setting, checked against the GPUs that torch sees on this machine.

The front never imports torch, so a child process counts the GPUs, but only if the setting or a GPU driver calls for it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from model.gpu import DRIVERS
from model.spec import ModelSpec
from server.config import ConfigError, Settings, devices
from server.config.devices import Slot
from server.process import usable_cores

COUNT_GPUS = "from model import gpu; print(gpu.count(), gpu.count() == 0 and gpu.why_none() or '')"
COUNT_WITHIN = 120.0


def slots_for(settings: Settings) -> tuple[Slot, ...]:
    """The workers to start, at least one. Raises ConfigError for a GPU that does not exist, and for a group of devices
    that cannot share the model."""
    parts = devices.parse(settings.device)
    look = any(part.startswith("cuda") for part in parts)
    if parts == ("auto",):
        look = any(path.exists() for path in DRIVERS)
    gpus, why_none = count_gpus() if look else (0, "")
    try:
        found = devices.slots(parts, gpus, settings.threads or usable_cores(), why_none)
    except ValueError as error:
        raise ConfigError(str(error), "device") from None
    check_groups(settings.spec, parts)
    return found


def check_groups(spec: ModelSpec, parts: Sequence[str]) -> None:
    """Raises ConfigError for a group of devices that cannot share the model."""
    for size in {len(part.split(devices.JOIN)) for part in parts}:
        if why := spec.why_not_shared(size):
            raise ConfigError(why, "device")


def count_gpus() -> tuple[int, str]:
    """Number of GPUs that torch can use here, and if 0, why. Raises ConfigError if that cannot be determined."""
    try:
        asked = subprocess.run(
            (sys.executable, "-P", "-c", COUNT_GPUS), capture_output=True, text=True, timeout=COUNT_WITHIN, check=True
        )
        number, _, why_none = asked.stdout.strip().partition(" ")
        return int(number), why_none
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().rpartition("\n")[2]
        raise ConfigError(f"torch could not list the GPUs: {said}") from None
