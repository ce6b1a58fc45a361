"""Promise: the steps of docs/operations.md (backup, restore, upgrade, rollback, moving, keys, a full disk) do what they
say: their commands are run as they stand, but for places and ports, against a server."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
PATIENCE = 300
# A service manager of one service: it knows what the steps ask of systemd.
SYSTEMCTL = """#!/bin/bash
set -eu
root={root}
stop() {{
    [ -e $root/pid ] || return 0
    kill -TERM $(cat $root/pid) || true
    tail --pid=$(cat $root/pid) -f /dev/null
    rm $root/pid
}}
start() {{
    set -a; . $root/etc/pafu/pafu.env; set +a
    setsid $root/opt/pafu/bin/pafu serve >> $root/log 2>&1 < /dev/null &
    echo $! > $root/pid
}}
[ "$2" = pafu ]
case $1 in stop) stop ;; start) start ;; restart) stop; start ;; *) exit 64 ;; esac
"""
# Version 0.2 has one migration more than 0.1, and another name.
NEWER = """
from server.jobs import schema
schema.MIGRATIONS = (*schema.MIGRATIONS, ("CREATE TABLE pafu_more (id INTEGER)",))
import server.http.status
server.http.status.__version__ = "0.2"
"""
PROGRAM = """#!{python} -P
import sys
{patch}
from server.cli.main import app
app()
"""


def steps(heading: str) -> str:
    """The commands of a section."""
    section = re.search(rf"^##+ {heading}\n(.*?)(?=^##+ |\Z)", DOCS, re.DOTALL | re.MULTILINE)
    assert section, heading
    return "\n".join(re.findall(r"```sh\n(.*?)```", section[1], re.DOTALL))


class Machine:
    """A folder that looks like a machine with Pafu on it."""

    def __init__(self, root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.root, self.data = root, root / "var/lib/pafu"
        for folder in ("var/lib/private/pafu", "etc/pafu", "srv/backup", "bin"):
            (root / folder).mkdir(parents=True)
        self.data.symlink_to("private/pafu")  # as systemd does for a DynamicUser
        for name, patch in (("0.1", ""), ("0.2", NEWER)):
            self._program(root / f"opt/pafu-{name}/bin/pafu", PROGRAM.format(python=sys.executable, patch=patch))
        (root / "opt/pafu").symlink_to(root / "opt/pafu-0.1")
        self._program(root / "bin/systemctl", SYSTEMCTL.format(root=root))
        self.set("PAFU_MODEL=test-tiny", "PAFU_DEVICE=cpu", f"PAFU_PORT={self.port}", f"PAFU_DATA_DIR={self.data}")
        self.set("PAFU_GALLERY=false", "PAFU_THREADS=1")
        toml = 'model = "test-tiny"\ndevice = "cpu"\nthreads = 1\n'
        (root / "etc/pafu/pafu.toml").write_text(toml + f'port = {self.port}\ndata_dir = "{self.data}"\n')
        self._manager("start")

    def _program(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def set(self, *lines: str) -> None:
        with (self.root / "etc/pafu/pafu.env").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def _manager(self, verb: str) -> None:
        subprocess.run([str(self.root / "bin/systemctl"), verb, "pafu"], check=True, timeout=PATIENCE)

    def ends(self) -> None:
        """Wait for the end of a server that ends by itself."""
        subprocess.run(
            ["tail", f"--pid={(self.root / 'pid').read_text().strip()}", "-f", "/dev/null"], timeout=PATIENCE
        )

    def stop(self) -> None:
        self._manager("stop")

    def follow(self, heading: str, **variables: str) -> str:
        """Run the commands of a section, one after the other until one fails; what they print."""
        script = steps(heading).replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        script = re.sub(r"(?<![\w.])/(var/lib/pafu|etc/pafu|opt/pafu|srv)", rf"{self.root}/\1", script)
        paths = f"{self.root}/bin:{self.root}/opt/pafu/bin:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euxc", script],
            env={**os.environ, "PATH": paths, "no_proxy": "*", "PAFU_DATA_DIR": str(self.data), **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr + (self.root / "log").read_text()[-3000:]
        return done.stdout

    def curl(self, path: str, *more: str, key: str = "") -> str:
        command = ["curl", "-sS", "--noproxy", "*", "--retry", "60", "--retry-all-errors", *more]
        key_header = ["-H", f"Authorization: Bearer {key}"] if key else []
        url = f"http://127.0.0.1:{self.port}{path}"
        return subprocess.run([*command, *key_header, url], check=True, capture_output=True, text=True).stdout

    def status(self, path: str, key: str) -> int:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {key}"}
        )
        try:
            return int(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked).status)
        except urllib.error.HTTPError as error:
            return error.code

    def order(self) -> str:
        """A video that is made; its id."""
        self.curl("/readyz", "-f")
        asked = ("-f", "-o", os.devnull, "-D", "-", "-H", "Content-Type: application/json")
        head = self.curl("/v1/videos/sync", *asked, "-d", '{"prompt": "a bar", "num_frames": 12}')
        return re.search(r"x-pafu-video-id: (\S+)", head, re.IGNORECASE)[1]  # type: ignore[index]

    def videos(self) -> list[str]:
        return [video["id"] for video in json.loads(self.curl("/v1/videos"))["data"]]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if shutil.which("curl") is None:
        pytest.skip("no curl; apt-get install curl")
    made = Machine(tmp_path)
    yield made
    made.stop()


@pytest.mark.proof
def test_backup_restore_upgrade_rollback_and_moving_keep_the_videos(machine: Machine) -> None:
    kept = machine.order()
    machine.follow("Backup")
    later = machine.order()
    (machine.data / "jobs.sqlite").write_bytes(b"damaged")
    assert kept in machine.follow("Restore") and machine.videos() == [kept]
    (before,) = (machine.root / "srv").glob("before-restore.*")
    assert (before / "videos" / later).is_dir(), "what was there is not thrown away"

    machine.follow("Backup")
    assert '"version":"0.2"' in machine.follow("Upgrade").replace(" ", "") and machine.videos() == [kept]
    machine.follow("Rollback")
    machine.ends()
    assert "has schema 3, this Pafu supports 1 to 2" in (machine.root / "log").read_text()
    assert kept in machine.follow("Restore") and '"version":"0.1' in machine.curl("/version").replace(" ", "")

    machine.follow("Move the data folder")
    assert machine.videos() == [kept] and not any(machine.data.iterdir())


def test_a_key_is_replaced_without_a_gap(machine: Machine) -> None:
    machine.stop()
    keys = machine.root / "etc/pafu/keys.toml"
    pafu = [str(machine.root / "opt/pafu/bin/pafu"), "keys"]
    made = subprocess.run([*pafu, "add", "alice", "--keys-file", str(keys)], check=True, capture_output=True, text=True)
    machine.set(f"PAFU_KEYS_FILE={keys}")
    machine._manager("start")
    machine.curl("/readyz", "-f")
    assert machine.status("/v1/videos", made.stdout.strip()) == 200
    machine.follow("Keys")
    assert machine.status("/v1/videos", (machine.root / "srv/backup/alice-2.key").read_text().strip()) == 200
    assert machine.status("/v1/videos", made.stdout.strip()) == 401


def test_a_full_disk_is_made_free_without_a_restart(machine: Machine) -> None:
    video = machine.order()
    said = machine.follow("A full disk", VIDEO=video)
    assert '"status":"ok"' in said.replace(" ", "") and machine.videos() == []
