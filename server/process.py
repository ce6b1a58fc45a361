"""Processes: how a child of Pafu is started, and facts from the kernel."""

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
    """Run this module in a Python of its own, which (``-P``) imports nothing from the user's current folder."""
    return sys.executable, "-P", "-m", name


async def answer_of(command: Sequence[str], data: bytes) -> tuple[int, bytes, bytes]:
    """Exit status, standard output and error of a child that reads ``data``; it dies with whoever waits for it."""
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
    """Ignore what asks for an end: the front ends its children in order, and they notice when it is gone. A signal to
    the process group, or to all of a service (systemd), reaches them too."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)


def rss_bytes(pid: int | None = None) -> int:
    """Resident memory of a process (this one by default); 0 where the kernel does not tell or it is gone."""
    try:
        return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def available_bytes() -> int:
    """Memory that new work may take without swapping, within a container's limit; 0 where the kernel does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return int(min(free, _left_in_container()))


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """What the control group (version 2) still allows; file pages that can be dropped count as free, as above."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return math.inf
    return math.inf if limit == "max" else max(0, int(limit) - used + int(stat.get("inactive_file", 0)))


def usable_cores() -> int:
    """Cores that this process may run on (an affinity mask or a container may allow fewer than there are)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
