"""Folders that the server writes in, made at its start or refused with what to do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from server.config.environment import ConfigError


def check_data_dir(folder: Path) -> None:
    """Make the folder for what survives the server. Raises ConfigError when it cannot be written."""
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
