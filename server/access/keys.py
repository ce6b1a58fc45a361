"""API keys: made with 256 random bits, kept as SHA-256, compared in constant time.

A key is too long to be guessed, so one fast hash is enough: slow hashes protect short passwords. Keys come from
PAFU_API_KEYS (plain, or ``sha256:<hex>``) and from a TOML file that ``pafu keys`` writes; the file is read again when
it changes, so a key can be given or taken away while the server runs.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
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
HEADER = "# API keys of Pafu: names, hashes, limits. Written by `pafu keys`; limits may be changed by hand.\n"
LIMITS = ("max_sessions", "max_jobs", "requests_per_minute")


@dataclass(frozen=True)
class Key:
    """A known key: its SHA-256, who it stands for, and when it ends (it may not)."""

    digest: bytes
    caller: Caller
    expires: datetime | None = None

    @property
    def expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= self.expires


class Record(BaseModel):
    """One ``[keys.NAME]`` table of the file. A limit left out is the server's default for keys.

    ``owner``: whose sessions and videos it opens; default: its own name. Keys of one owner overlap while one replaces
    another; the owner "anonymous" has what was made before the server had keys.
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
    """A key to hand out; it is shown once and never stored."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Keyring:
    """All keys that the server knows now."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when the file cannot be read or holds no key."""
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
                    raise ConfigError(f"{self._path} holds no key; make one: {make}")

    @property
    def required(self) -> bool:
        """Whether callers need a key; it stays so when the last one is taken away."""
        return bool(self._fixed) or self._path is not None

    def caller(self, secret: str) -> Caller | None:
        """Whom the secret stands for. Takes as long for a wrong key as for any right one."""
        self._refresh()
        given, found = digest(secret), None
        for key in self._all:
            if hmac.compare_digest(given, key.digest):
                found = key
        return None if found is None or found.expired else found.caller

    def stands(self, caller: Caller) -> bool:
        """Whether the key that the caller showed once is good still."""
        self._refresh()
        return not self.required or any(key.caller.key == caller.key and not key.expired for key in self._all)

    def has_key(self, owner: str) -> bool:
        """Whether anybody can still show a key of this owner."""
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
        """Read a changed file; a file that became unreadable changes nothing but the log."""
        if self._path is None or (stamp := _stamp(self._path)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._filed = self._from_file(self._path)
        except ConfigError as error:
            return log.error("the keys stay as they were: %s", error)
        log.info("%s changed: %d keys", self._path, len(self._filed))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file does: a rename gives a new inode, an edit a new time or size."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


# ---- the file


def read(path: Path) -> dict[str, Record]:
    """The keys of the file by name. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the keys file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the keys file {path} is not TOML: {error}") from None
    if set(tables) - {"keys"} or not isinstance(tables.get("keys", {}), dict):
        raise ConfigError(f"the keys file {path} may hold tables [keys.NAME] only")
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
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"{name[:80]!r} cannot name a key; use 1 to 63 small letters, digits, - and _")


def add(
    path: Path,
    name: str,
    limits: Mapping[str, int | None],
    owner: str | None = None,
    days: float | None = None,
) -> str:
    """Make a key and keep its hash; the key. It ends after so many ``days``. Raises ConfigError for a taken name or a
    file that cannot be written."""
    for given in (name, owner or name):
        check_name(given)
    records = read(path) if path.exists() else {}
    if name in records:
        beside = f"make one beside it: pafu keys add {name}-2 --owner {records[name].owner or name}"
        raise ConfigError(f"{path} has a key {name!r} already; {beside}, or remove it first: pafu keys remove {name}")
    secret, made = new_secret(), datetime.now(UTC).replace(microsecond=0)
    expires = None if days is None else made + timedelta(days=days)
    record = Record(sha256=digest(secret).hex(), owner=owner, created=made, expires=expires, **limits)
    write(path, {**records, name: record})
    return secret


def remove(path: Path, name: str) -> None:
    """Forget a key; a running server refuses it from its next request on. Raises ConfigError."""
    records = read(path)
    if name not in records:
        raise ConfigError(f"{path} has no key {name!r}; it has: {', '.join(sorted(records)) or 'none'}")
    write(path, {known: record for known, record in records.items() if known != name})


def write(path: Path, records: Mapping[str, Record]) -> None:
    """Replace the file in one step, readable by its owner alone. Raises ConfigError."""
    text = HEADER + "".join(_table(name, record) for name, record in records.items())
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
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
    """Of the values that a record has: hex text, numbers, times."""
    if isinstance(value, datetime):
        return value.isoformat()
    return f'"{value}"' if isinstance(value, str) else str(value)
