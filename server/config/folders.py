"""Create and check the folders that the server writes to."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

from server.config.environment import ConfigError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
FULL = (errno.ENOSPC, errno.EDQUOT)


def check_data_dir(folder: Path) -> None:
    """Raises ConfigError if the data folder, or one of this name if it is not there yet, cannot be used. Makes
    nothing."""
    if str(folder).startswith("~"):
        raise ConfigError(f"{folder}: this user has no home folder; set PAFU_DATA_DIR to a data folder", "data_dir")
    if why := why_unusable(folder):
        raise _unusable(folder, why)


def make_data_dir(folder: Path) -> None:
    """Create the data folder if there is none. Raises ConfigError."""
    check_data_dir(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, str(error.strerror)) from None


def _unusable(folder: Path, why: str) -> ConfigError:
    return ConfigError(f"the data folder {folder} cannot be used: {why}; set PAFU_DATA_DIR to another", "data_dir")


def why_unusable(folder: Path) -> str:
    """Why files cannot be written and locked in the folder, or in the nearest one above it that exists; empty if they
    can. Nothing is left behind."""
    there = standing(folder)
    if not there.is_dir():
        return "it is a file, not a folder" if there == folder else f"{there} is a file, not a folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return "no write permission"
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            return _why_no_locks(there, probe.fileno())
    except OSError as error:  # a full disk may have room again later
        return "" if error.errno in FULL else str(error.strerror)


def standing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))


def _why_no_locks(folder: Path, probe: int) -> str:
    """Why files in the folder, such as the open one ``probe``, cannot be locked, as jobs and sessions require."""
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
            make_data_dir(data_dir)
            folder.mkdir(mode=0o700, exist_ok=True)
        except (ConfigError, OSError) as error:
            reason = f"no temporary folder is writable: {error}; or set TMPDIR to one"
            raise ConfigError(reason, "data_dir") from None
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
