"""Create and check the folders that the server writes to."""

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
    """Create the data folder. Raises ConfigError if it is not writable or does not support file locks."""
    if str(folder).startswith("~"):
        raise ConfigError(f"{folder}: this user has no home folder; set PAFU_DATA_DIR to a data folder", "data_dir")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else "no write permission"
    except FileExistsError:
        why = "it is a file, not a folder"
    except OSError as error:
        why = str(error.strerror)
    if why:
        raise ConfigError(f"the data folder {folder} cannot be used: {why}; set PAFU_DATA_DIR to another", "data_dir")
    if why := why_no_locks(folder):
        raise ConfigError(f"the data folder: {why}; set PAFU_DATA_DIR to another", "data_dir")


def why_no_locks(folder: Path) -> str:
    """Why files in the folder cannot be locked, as jobs and sessions require; empty if they can."""
    with contextlib.suppress(PermissionError), tempfile.TemporaryFile(dir=folder) as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(probe, fcntl.LOCK_UN)
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return (
                    f"files in {folder} cannot be locked ({error.strerror}), as on some network file systems: mount "
                    "it with locking (NFS: a lock service and no nolock option), or choose a local folder"
                )
    return ""


def find_temporary_folder(data_dir: Path) -> None:
    """If the system has no writable temporary folder (read-only root), use one in the data folder.

    Child processes inherit it through TMPDIR. Raises ConfigError if it cannot be created.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folder = data_dir / "tmp"
        try:
            check_data_dir(data_dir)
            folder.mkdir(mode=0o700, exist_ok=True)
        except (ConfigError, OSError) as error:
            reason = f"no temporary folder is writable: {error}; or set TMPDIR to one"
            raise ConfigError(reason, "data_dir") from None
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
