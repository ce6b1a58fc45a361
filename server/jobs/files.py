"""Storage for job files: a directory by default, or any fsspec store by URL.

The server generates all names (``<job id>/<name>``). Writes are atomic: ``write`` returns after writing, syncing and
renaming a temporary file; on object stores, after an upload and a move.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from server.config.folders import why_unusable
from server.disk import PART, write_whole

READ_SIZE = 256 * 2**10


class FilesError(RuntimeError):
    """The file store is misconfigured; the message says what to change."""


class FilesUnavailable(OSError):
    """A file could not be read or written; ``full`` if no space is left."""

    def __init__(self, message: str, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class FileMissing(FilesUnavailable, FileNotFoundError):
    """There is no file with this name."""


class Files(Protocol):
    """Durable files by name. Methods block and raise FilesUnavailable; call them from threads."""

    def check(self) -> None:
        """Raises FilesUnavailable if nothing can be kept here. Creates nothing."""

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file atomically; it is durable on return."""

    def read(self, name: str) -> bytes: ...
    def chunks(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (exclusive), in pieces of at most READ_SIZE."""

    def size(self, name: str) -> int: ...
    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, without the folder; empty if it does not exist."""

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""

    def copy(self, source: str, target: str) -> None: ...
    def remove_folder(self, folder: str) -> None:
        """Delete a folder with its files, if it exists."""

    def keep_only(self, folder: str, names: Collection[str]) -> None:
        """Delete all other files in the folder."""

    def folders(self, older_than: float) -> list[str]:
        """Folders not written to for ``older_than`` seconds; empty if the store does not know."""


def open_files(url: str | None, data_dir: Path, what: str = "videos") -> Files:
    """Open the store at ``url`` (None: ``what`` in the data folder). Raises FilesError or FilesUnavailable."""
    if not url:
        return LocalFiles(data_dir / what)
    if any(part == "memory" or part.startswith("memory:") for part in url.split("::")):
        raise FilesError(
            f"{what} cannot be stored at {url}: memory does not outlive the process; give a folder or store"
        )
    parts = urlsplit(url)
    if "::" in url or parts.scheme not in ("", "file"):
        return RemoteFiles(url)
    if parts.scheme and (parts.netloc not in ("", "localhost") or not parts.path):
        raise FilesError(f"{what} cannot be stored at {url}: write a folder URL with three slashes: file:///srv/videos")
    return LocalFiles(Path(parts.path if parts.scheme else url))


class LocalFiles:
    """Files in a directory, local or mounted by several machines."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self) -> None:
        if why := why_unusable(self._root):
            raise FilesUnavailable(f"the directory {self._root} cannot be used: {why}")

    def path(self, name: str) -> Path:
        """Path of a file. Raises FilesUnavailable for an unsafe name."""
        parts = name.split("/")
        if not all(part and part not in (".", "..") and part.isascii() and "\0" not in part for part in parts):
            raise FilesUnavailable(f"{name!r} is not a valid file name")
        return self._root.joinpath(*parts)

    def write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        with _named(f"{name} cannot be written"):
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_whole(path, data)

    def read(self, name: str) -> bytes:
        with _named(f"{name} cannot be read"):
            return self.path(name).read_bytes()

    def chunks(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        with _named(f"{name} cannot be read"), self.path(name).open("rb") as file:
            file.seek(start)
            while start < stop and (data := file.read(min(READ_SIZE, stop - start))):
                start += len(data)
                yield data

    def size(self, name: str) -> int:
        with _named(f"{name} cannot be read"):
            return self.path(name).stat().st_size

    def names(self, folder: str) -> list[str]:
        with _named(f"{folder} cannot be listed"):
            try:
                return os.listdir(self.path(folder))
            except FileNotFoundError:
                return []

    def remove(self, name: str) -> None:
        path = self.path(name)
        with _named(f"{name} cannot be removed"):
            path.unlink(missing_ok=True)
            if path.parent != self._root:
                with contextlib.suppress(OSError):  # not empty
                    path.parent.rmdir()

    def copy(self, source: str, target: str) -> None:
        self.write(target, self.read(source))

    def remove_folder(self, folder: str) -> None:
        with _named(f"{folder} cannot be removed"):
            shutil.rmtree(self.path(folder), ignore_errors=False, onerror=_unless_gone)

    def keep_only(self, folder: str, names: Collection[str]) -> None:
        with _named(f"{folder} cannot be cleaned up"):
            for path in self.path(folder).iterdir():
                if f"{folder}/{path.name}" not in names:
                    path.unlink(missing_ok=True)

    def folders(self, older_than: float) -> list[str]:
        now = time.time()
        with _named("the directory cannot be listed"):
            if not self._root.exists():
                return []
            return [
                entry.name
                for entry in os.scandir(self._root)
                if entry.is_dir(follow_symlinks=False) and now - entry.stat().st_mtime > older_than
            ]


class RemoteFiles:
    """Files in any fsspec store (s3://bucket/folder, gs://, abfs://, sftp:// ...), with its usual credentials."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except Exception as error:  # each kind of store raises its own
            raise FilesError(f"nothing can be stored at {_shown(url)}: {error}") from None
        self._root, self._url = root.rstrip("/"), url

    def check(self) -> None:
        try:
            self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return
        except Exception as error:  # each kind of store raises its own
            raise FilesUnavailable(f"{_shown(self._url)} does not answer: {error}") from error

    def write(self, name: str, data: bytes) -> None:
        path, part = self._path(name), self._path(f"{name}.{os.getpid()}{PART}")
        with _named(f"{name} cannot be written"):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(part, data)
            self._fs.mv(part, path)

    def read(self, name: str) -> bytes:
        with _named(f"{name} cannot be read"):
            data: bytes = self._fs.cat_file(self._path(name))
            return data

    def chunks(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        with _named(f"{name} cannot be read"), self._fs.open(self._path(name), "rb") as file:
            file.seek(start)
            while start < stop and (data := file.read(min(READ_SIZE, stop - start))):
                start += len(data)
                yield data

    def size(self, name: str) -> int:
        with _named(f"{name} cannot be read"):
            return int(self._fs.info(self._path(name))["size"])

    def names(self, folder: str) -> list[str]:
        with _named(f"{folder} cannot be listed"):
            try:
                self._fs.invalidate_cache(self._path(folder))  # another server may have written
                return [path.rpartition("/")[2] for path in self._fs.ls(self._path(folder), detail=False)]
            except FileNotFoundError:
                return []

    def remove(self, name: str) -> None:
        with _named(f"{name} cannot be removed"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def copy(self, source: str, target: str) -> None:
        self.write(target, self.read(source))

    def remove_folder(self, folder: str) -> None:
        with _named(f"{folder} cannot be removed"):
            if self._fs.exists(self._path(folder)):
                self._fs.rm(self._path(folder), recursive=True)

    def keep_only(self, folder: str, names: Collection[str]) -> None:
        with _named(f"{folder} cannot be cleaned up"):
            for path in self._fs.ls(self._path(folder), detail=False):
                if f"{folder}/{path.rpartition('/')[2]}" not in names:
                    self._fs.rm_file(path)

    def folders(self, older_than: float) -> list[str]:
        return []  # object stores have no folder times, so orphans are not found here

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _shown(url: str) -> str:
    """The URL without a password."""
    return re.sub(r"//[^/@]*@", "//...@", url)


class _named:
    """Context manager that converts OSError to FilesUnavailable with the message ``what``, or FileMissing."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> None:
        if isinstance(error, FilesUnavailable):
            return
        if isinstance(error, FileNotFoundError):
            raise FileMissing(f"{self._what}: {error.strerror or error}") from error
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise FilesUnavailable(f"{self._what}: {error.strerror or error}", full) from error


def _unless_gone(_: Any, __: str, error: Any) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]
