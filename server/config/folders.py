"""Folders that the server writes in, made at its start or refused with what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from pathlib import Path

from server.config.environment import ConfigError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def check_data_dir(folder: Path) -> None:
    """Make the folder for what survives the server. Raises ConfigError when it cannot be written, or has no locks."""
    if str(folder).startswith("~"):
        raise ConfigError(
            f"{folder}: this user has no home folder here; name a data folder with PAFU_DATA_DIR", "data_dir"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else "no right to write there"
    except FileExistsError:
        why = "that is a file and no folder"
    except OSError as error:
        why = str(error.strerror)
    if why:
        raise ConfigError(
            f"the data folder {folder} cannot be used: {why}; name another with PAFU_DATA_DIR", "data_dir"
        )
    if why := why_no_locks(folder):
        raise ConfigError(f"the data folder: {why}; name another with PAFU_DATA_DIR", "data_dir")


def why_no_locks(folder: Path) -> str:
    """Why files there cannot be locked, which jobs and sessions need; empty when they can."""
    with contextlib.suppress(PermissionError), tempfile.TemporaryFile(dir=folder) as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(probe, fcntl.LOCK_UN)
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return (
                    f"files in {folder} cannot be locked ({error.strerror}), as on some network file systems: mount "
                    "it with locks (NFS: not nolock, and with a lock service), or choose a folder of this machine"
                )
    return ""


def find_temporary_folder(data_dir: Path) -> None:
    """Where the system has none (a read-only root), this process and its children use one in the data folder."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folder = data_dir / "tmp"
        try:
            check_data_dir(data_dir)
            folder.mkdir(mode=0o700, exist_ok=True)
        except (ConfigError, OSError) as error:
            reason = f"no folder for temporary files can be written: {error}; or name one with TMPDIR"
            raise ConfigError(reason, "data_dir") from None
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
