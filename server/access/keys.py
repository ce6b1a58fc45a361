"""API keys: 256 random bits, stored as SHA-256, compared in constant time.

A fast hash is enough, because keys are too long to guess; slow hashes are for short passwords. Keys come from
PAFU_API_KEYS (plain, or ``sha256:<hex>``) and from a TOML file that ``pafu keys`` writes. The server rereads the file
when it changes, so keys can be added and removed while it runs.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from server.access.limits import Caller
from server.config import ConfigError, Settings, about

log = logging.getLogger("pafu.keys")

PREFIX = "pafu_"
NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
HEADER = "# API keys of Pafu: names, hashes, limits. Written by `pafu keys`; you may edit the limits.\n"
LIMITS = ("max_sessions", "max_jobs", "requests_per_minute")


@dataclass(frozen=True)
class Key:
    """A known key: its SHA-256, its caller, and when it expires, if ever."""

    digest: bytes
    caller: Caller
    expires: datetime | None = None

    @property
    def expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= self.expires


class Record(BaseModel):
    """One ``[keys.NAME]`` table of the file. An omitted limit takes the server's default for keys.

    ``owner``: whose sessions and videos the key gives access to; default: its own name. Several keys of one owner allow
    key rotation; the owner "anonymous" has everything made before the server required keys.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    owner: str | None = Field(default=None, pattern=f"^{NAME}$")
    created: datetime | None = None
    expires: AwareDatetime | None = None
    max_sessions: int | None = Field(default=None, ge=0)
    max_jobs: int | None = Field(default=None, ge=0)
    requests_per_minute: int | None = Field(default=None, ge=1)


def new_secret() -> str:
    """A new key, to be shown once and never stored."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """SHA-256 of a key or ticket."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Keyring:
    """All keys that the server currently accepts."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError if the keys file cannot be read or has no keys."""
        self._defaults = {
            "max_sessions": settings.max_sessions_per_key,
            "max_jobs": settings.max_jobs_per_key,
            "requests_per_minute": settings.requests_per_minute_per_key,
        }
        self._path = settings.keys_file
        self._fixed = tuple(self._environment_key(text) for text in settings.api_keys)
        self._filed: tuple[Key, ...] = ()
        self._stamp: tuple[int, int, int] | None = None
        if self._path is not None:
            self._stamp = _stamp(self._path)
            with about("keys_file"):
                self._filed = self._from_file(self._path)
                if not self._filed:
                    make = f"pafu keys add NAME --keys-file {self._path}"
                    raise ConfigError(f"{self._path} has no keys; create one: {make}")

    @property
    def required(self) -> bool:
        """Whether callers need a key; still true after the last key is removed."""
        return bool(self._fixed) or self._path is not None

    def caller(self, secret: str) -> Caller | None:
        """The caller with this key, or None. Takes equally long for right and wrong keys."""
        self._refresh()
        given, found = digest(secret), None
        for key in self._all:
            if hmac.compare_digest(given, key.digest):
                found = key
        return None if found is None or found.expired else found.caller

    def stands(self, caller: Caller) -> bool:
        """Whether the caller's key is still valid."""
        self._refresh()
        return not self.required or any(key.caller.key == caller.key and not key.expired for key in self._all)

    def has_key(self, owner: str) -> bool:
        """Whether this owner still has a valid key."""
        self._refresh()
        return not self.required or any(key.caller.name == owner and not key.expired for key in self._all)

    @property
    def _all(self) -> tuple[Key, ...]:
        return (*self._fixed, *self._filed)

    def _environment_key(self, text: str) -> Key:
        hashed = bytes.fromhex(text.removeprefix("sha256:"))
        return Key(hashed, Caller(f"key-{hashed.hex()[:8]}", **self._defaults, key=hashed.hex()))

    def _from_file(self, path: Path) -> tuple[Key, ...]:
        return tuple(self._key(name, record) for name, record in read(path).items())

    def _key(self, name: str, record: Record) -> Key:
        given = {limit: getattr(record, limit) for limit in LIMITS}
        limits = {limit: self._defaults[limit] if value is None else value for limit, value in given.items()}
        caller = Caller(record.owner or name, **limits, key=record.sha256)
        return Key(bytes.fromhex(record.sha256), caller, record.expires)

    def _refresh(self) -> None:
        """Reread the file if it has changed; if it is unreadable, log that and keep the keys."""
        if self._path is None or (stamp := _stamp(self._path)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._filed = self._from_file(self._path)
        except ConfigError as error:
            return log.error("keeping the previous keys: %s", error)
        log.info("%s changed: %d keys", self._path, len(self._filed))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """A value that changes with the file: inode, modification time and size; None without a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


# ---- the file


def read(path: Path) -> dict[str, Record]:
    """Read the keys file: name -> record. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the keys file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the keys file {path} is not valid TOML: {error}") from None
    if set(tables) - {"keys"} or not isinstance(tables.get("keys", {}), dict):
        raise ConfigError(f"the keys file {path} may only have tables [keys.NAME]")
    return {name: _record(path, name, table) for name, table in tables.get("keys", {}).items()}


def _record(path: Path, name: str, table: object) -> Record:
    check_name(name)
    try:
        return Record.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"the keys file {path}, [keys.{name}] {field}: {first['msg']}") from None


def check_name(name: str) -> None:
    """Raises ConfigError for an invalid key name."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"{name[:80]!r} is not a valid key name; use 1 to 63 lower-case letters, digits, - and _")


def add(
    path: Path,
    name: str,
    limits: Mapping[str, int | None],
    owner: str | None = None,
    days: float | None = None,
) -> str:
    """Create a key that expires after ``days`` (None: never), store its hash and return the key.

    Raises ConfigError if the name is taken or the file cannot be written.
    """
    for given in (name, owner or name):
        check_name(given)
    records = read(path) if path.exists() else {}
    if name in records:
        second = f"add a second one: pafu keys add {name}-2 --owner {records[name].owner or name}"
        raise ConfigError(f"{path} already has a key {name!r}; {second}, or remove it first: pafu keys remove {name}")
    secret, made = new_secret(), datetime.now(UTC).replace(microsecond=0)
    expires = None if days is None else made + timedelta(days=days)
    record = Record(sha256=digest(secret).hex(), owner=owner, created=made, expires=expires, **limits)
    write(path, {**records, name: record})
    return secret


def remove(path: Path, name: str) -> None:
    """Remove a key; a running server refuses it from the next request on. Raises ConfigError."""
    records = read(path)
    if name not in records:
        raise ConfigError(f"{path} has no key {name!r}; it has: {', '.join(sorted(records)) or 'none'}")
    write(path, {known: record for known, record in records.items() if known != name})


def write(path: Path, records: Mapping[str, Record]) -> None:
    """Replace the file atomically; a new one has mode 0600, an old one keeps owner and rights, so that a server of
    another user still reads it. Raises ConfigError."""
    text = HEADER + "".join(_table(name, record) for name, record in records.items())
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            if path.exists():
                before = path.stat()
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ConfigError(f"cannot write the keys file {path}: {error.strerror}") from None


def _table(name: str, record: Record) -> str:
    lines: Iterable[str] = (
        f"{field} = {_toml(value)}\n" for field, value in record.model_dump(exclude_none=True).items()
    )
    return f"\n[keys.{name}]\n{''.join(lines)}"


def _toml(value: str | int | datetime) -> str:
    """A record's value as TOML: string, number or time."""
    if isinstance(value, datetime):
        return value.isoformat()
    return f'"{value}"' if isinstance(value, str) else str(value)
