"""Where the files of jobs live: a directory by default, any fsspec store by URL.

Names are made by the server (``<job id>/<name>``), never by a caller. A file appears whole or not at all: ``write``
uses a temporary name, flushes to disk, renames, and only then returns. Object stores: one upload and one move.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from server.disk import PART, write_whole

READ_SIZE = 256 * 2**10


class FilesError(RuntimeError):
    """The store of files cannot be used as it is configured; the message says what to change."""


class FilesUnavailable(OSError):
    """A file could not be written or read; ``full`` when there is no space left."""

    def __init__(self, message: str, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class FileMissing(FilesUnavailable, FileNotFoundError):
    """There is no file of this name."""


class Files(Protocol):
    """Durable files by name. Everything blocks and is called from threads; failures are FilesUnavailable."""

    def write(self, name: str, data: bytes) -> None:
        """The file is complete and safe when this returns; an earlier one of the name is replaced."""

    def read(self, name: str) -> bytes: ...
    def chunks(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, piece by piece."""

    def size(self, name: str) -> int: ...
    def names(self, folder: str) -> list[str]:
        """What lies in the folder, without its name; nothing there is no error."""

    def remove(self, name: str) -> None:
        """Nothing there is no error."""

    def copy(self, source: str, target: str) -> None: ...
    def remove_folder(self, folder: str) -> None:
        """Everything of one job; nothing there is no error."""

    def keep_only(self, folder: str, names: Collection[str]) -> None:
        """Remove what else lies in the folder."""

    def folders(self, older_than: float) -> list[str]:
        """Folders that nobody has written to for so many seconds, as far as the store can tell."""


def open_files(url: str | None, data_dir: Path, what: str = "videos") -> Files:
    """The store that a setting names. Raises FilesError or FilesUnavailable."""
    if not url:
        return LocalFiles(data_dir / what)
    if any(part == "memory" or part.startswith("memory:") for part in url.split("::")):
        raise FilesError(f"{what} cannot be kept at {url}: memory ends with its process; give a folder or a store")
    parts = urlsplit(url)
    if "::" in url or parts.scheme not in ("", "file"):
        return RemoteFiles(url)
    if parts.scheme and (parts.netloc not in ("", "localhost") or not parts.path):
        raise FilesError(f"{what} cannot be kept at {url}: a folder's URL has three slashes, as in file:///srv/videos")
    return LocalFiles(Path(parts.path if parts.scheme else url))


class LocalFiles:
    """A directory on this machine (or one that several machines mount)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _named(f"the directory {root} cannot be used"):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> Path:
        """Where a file lies. Raises FilesUnavailable for a name that is not ours."""
        parts = name.split("/")
        if not all(part and part not in (".", "..") and part.isascii() and "\0" not in part for part in parts):
            raise FilesUnavailable(f"{name!r} is no name of a file here")
        return self._root.joinpath(*parts)

    def write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        with _named(f"{name} cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        with _named(f"{folder} cannot be tidied"):
            for path in self.path(folder).iterdir():
                if f"{folder}/{path.name}" not in names:
                    path.unlink(missing_ok=True)

    def folders(self, older_than: float) -> list[str]:
        now = time.time()
        with _named("the directory cannot be listed"):
            return [
                entry.name
                for entry in os.scandir(self._root)
                if entry.is_dir(follow_symlinks=False) and now - entry.stat().st_mtime > older_than
            ]


class RemoteFiles:
    """Anything that fsspec can open: s3://bucket/folder, gs://, abfs://, sftp:// ...; with its own credentials."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise FilesError(f"videos cannot be kept at {url}: {error}") from None
        self._root = root.rstrip("/")

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
                self._fs.invalidate_cache(self._path(folder))  # another server may have written meanwhile
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
        with _named(f"{folder} cannot be tidied"):
            for path in self._fs.ls(self._path(folder), detail=False):
                if f"{folder}/{path.rpartition('/')[2]}" not in names:
                    self._fs.rm_file(path)

    def folders(self, older_than: float) -> list[str]:
        return []  # object stores have no times of folders: an orphan stays until its job's row says otherwise

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class _named:
    """OSErrors of a block as FilesUnavailable that says what could not be done, and whether space is the reason."""

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
