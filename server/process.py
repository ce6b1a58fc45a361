"""Start child processes; read process and memory figures from the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def module_command(name: str) -> tuple[str, ...]:
    """The command that runs this module in a new Python; ``-P`` keeps the current folder off its import path."""
    return sys.executable, "-P", "-m", name


async def answer_of(command: Sequence[str], data: bytes) -> tuple[int, bytes, bytes]:
    """Exit status, stdout and stderr of a child that reads ``data`` on stdin. Canceling the call kills the child."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        answer, errors = await process.communicate(data)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, answer, errors


def leave_signals_to_the_front() -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP in a child process.

    A signal to the process group or systemd unit reaches children too, but the front shuts them down in order. They
    also notice when the front is gone.
    """
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)


def rss_bytes(pid: int | None = None) -> int:
    """Resident memory of a process (default: this one); 0 if it is gone or the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def available_bytes() -> int:
    """Memory available without swapping, within the container's limit; 0 if the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return int(min(free, _left_in_container()))


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory left under the cgroup v2 limit, counting inactive file pages as free; infinite without a limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return math.inf
    return math.inf if limit == "max" else max(0, int(limit) - used + int(stat.get("inactive_file", 0)))


def usable_cores() -> int:
    """Cores that this process may run on; an affinity mask or container may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def signal_name(number: int) -> str:
    """``SIGKILL``; real-time signals have no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
