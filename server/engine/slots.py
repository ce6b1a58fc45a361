"""Which workers a server starts here: the device setting, held against what torch sees on this machine.

The front never imports torch, so a process of its own is asked; only where a GPU is asked for, or could be.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from server.config import ConfigError, Settings, devices
from server.config.devices import Slot
from server.process import usable_cores

COUNT_GPUS = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
COUNT_WITHIN = 120.0
# a driver with a GPU shows one of these: NVIDIA's, WSL's, AMD's
DRIVERS = tuple(Path(path) for path in ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/dxg", "/dev/kfd"))


def slots_for(settings: Settings) -> tuple[Slot, ...]:
    """The workers to start, at least one. Raises ConfigError for a GPU that is not there."""
    parts = devices.parse(settings.device)
    look = any(part.startswith("cuda") for part in parts)
    if parts == ("auto",):
        look = any(path.exists() for path in DRIVERS)
    try:
        return devices.slots(parts, count_gpus() if look else 0, settings.threads or usable_cores())
    except ValueError as error:
        raise ConfigError(str(error), "device") from None


def count_gpus() -> int:
    """GPUs that torch can use here. Raises ConfigError when torch cannot say."""
    try:
        asked = subprocess.run(
            (sys.executable, "-P", "-c", COUNT_GPUS), capture_output=True, text=True, timeout=COUNT_WITHIN, check=True
        )
        return int(asked.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().rpartition("\n")[2]
        raise ConfigError(f"torch could not say which GPUs there are: {said}") from None
