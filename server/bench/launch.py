"""Run ``pafu serve`` as a child process, for benchmarks and tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pafu_client.proxies import is_here

from server.process import module_command

ADDRESS = re.compile(r"open (http://\S+)")
COMMAND = (*module_command("server.cli"), "serve")
POLL_SECONDS = 0.05
STOP_WITHIN = 60.0  # seconds; long, because the machine may be busy
ERROR = "pafu: error: "  # begins the line with which a command fails


class LaunchError(RuntimeError):
    """The server exited or did not become ready; the message has its last lines."""


class ServerProcess:
    """A running server: its process, address and output."""

    def __init__(
        self, settings: Mapping[str, Any], command: Sequence[str] = COMMAND, folder: Path | None = None
    ) -> None:
        """Start with these settings (names without PAFU_), ignoring PAFU_* variables of the environment."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PAFU_")}
        environ |= {f"PAFU_{name.upper()}": str(value) for name, value in settings.items()}
        self.began = time.perf_counter()
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PAFU_PORT": "0", "PAFU_GALLERY": "false", **environ},  # the gallery would disturb measurements
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def url(self, within: float = 180.0) -> str:
        """Wait for the address that the server prints. Raises LaunchError."""
        give_up = time.monotonic() + within
        while time.monotonic() < give_up:
            for line in list(self.lines):
                if found := ADDRESS.search(line):
                    return found.group(1)
            self._check_alive()
            time.sleep(POLL_SECONDS)
        raise LaunchError(f"the server printed no address within {within:g} s: {self.tail()}")

    def wait_ready(self, within: float = 300.0) -> float:
        """Wait until /readyz is 200; returns the seconds since the start of the process. Raises LaunchError."""
        url, give_up = self.url(), time.monotonic() + within
        while time.monotonic() < give_up:
            if get_json(f"{url}/readyz")[0] == 200:
                return time.perf_counter() - self.began
            self._check_alive()
            time.sleep(POLL_SECONDS)
        raise LaunchError(f"the server was not ready within {within:g} s: {self.tail()}")

    def stop(self) -> int:
        """Stop with SIGTERM, if necessary SIGKILL; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_WITHIN)
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait()
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def tail(self) -> str:
        """The server's own error if its last line is one, else its last lines."""
        if self.lines and self.lines[-1].startswith(ERROR):
            return self.lines[-1].removeprefix(ERROR)
        return " | ".join(self.lines[-5:])

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            self._reader.join(1.0)
            raise LaunchError(f"the server exited with status {self.process.returncode}: {self.tail()}")


@contextlib.contextmanager
def launched(**settings: Any) -> Iterator[ServerProcess]:
    """A server during the block, also if SIGTERM or SIGHUP ends it."""
    with _ended_in_order():
        server = ServerProcess(settings)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """A block that SIGTERM and SIGHUP leave by SystemExit, so that what it has started is stopped."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the stop
        raise SystemExit(128 + number)

    on_main = threading.current_thread() is threading.main_thread()
    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.signal(number, leave) for number in heard if on_main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def get_json(url: str) -> tuple[int, Any]:
    """Status and JSON body of a GET; (0, None) without a reply."""
    direct = [urllib.request.ProxyHandler({})] if is_here(url) else []
    try:
        with urllib.request.build_opener(*direct).open(url, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, None
