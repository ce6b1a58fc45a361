"""Per-caller limits: sessions, connections, jobs and request rate.

A ``Caller`` is the name and limits of a key. The guard stores it in ``scope["state"]``; routes read it with
``caller_of``. ``Limits`` belongs to the front, counts per caller name and refuses with 429 and Retry-After.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from starlette.requests import HTTPConnection

from server.errors import RETRY_AFTER, PafuError

CONNECTIONS_PER_SESSION = 4  # for watchers, and for viewers who reconnect before the dead connection is noticed


@dataclass(frozen=True)
class Caller:
    """Who sends a request. Sessions and jobs belong to ``name``, which several keys can share; ``key`` is the digest.

    A limit of None means that only the server-wide limits apply.
    """

    name: str
    max_sessions: int | None = None
    max_jobs: int | None = None
    requests_per_minute: int | None = None
    key: str = field(default="", compare=False)


ANONYMOUS = Caller("anonymous")  # everybody, on a server without keys


def caller_of(connection: HTTPConnection) -> Caller:
    """The caller of a request or WebSocket that passed the guard."""
    caller: Caller = connection.state.caller
    return caller


class Bucket:
    """A token bucket: up to ``burst`` tokens at once, refilled at ``rate`` per second. Times come from the caller."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._tokens, self._seen = rate, burst, burst, now

    def take(self, now: float) -> float:
        """Take one token and return 0, or return the seconds until one is available."""
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0

    def spend(self, count: int, now: float) -> float:
        """Take ``count`` tokens, going into debt if necessary; returns the seconds until the debt is paid."""
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate) - count
        self._seen = now
        return max(0.0, -self._tokens / self._rate)


class Permit:
    """One counted use of a limit. ``release`` is idempotent; also a context manager."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Limits:
    """Counts for all callers, with at most one entry per key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._buckets: dict[str, tuple[int, Bucket]] = {}

    def request(self, caller: Caller) -> None:
        """Count one request or handshake. Raises PafuError rate_limited."""
        rate = caller.requests_per_minute
        if rate is None:
            return
        known_rate, bucket = self._buckets.get(caller.name, (None, None))
        if bucket is None or known_rate != rate:
            bucket = Bucket(rate / 60, rate, self._clock())
            self._buckets[caller.name] = (rate, bucket)
        if wait := bucket.take(self._clock()):
            message = f"key {caller.name!r} is limited to {rate} requests per minute; wait {wait:.1f} s"
            raise PafuError("rate_limited", message, retry_after=wait)

    def acquire_session(self, caller: Caller) -> Permit:
        """Count one session, from its start to its end. Raises PafuError session_limit."""
        most = caller.max_sessions
        if most is not None and self._sessions[caller.name] >= most:
            todo = "end one (sessions without a viewer count too: see GET /v1/sessions), or ask the operator for more"
            message = f"key {caller.name!r} has {most} of {most} sessions; {todo}"
            raise PafuError("session_limit", message, retry_after=RETRY_AFTER)
        return _permit(self._sessions, caller.name)

    def acquire_connection(self, caller: Caller) -> Permit:
        """Count one live connection. Raises PafuError session_limit."""
        if caller.max_sessions is not None:
            most = max(1, caller.max_sessions) * CONNECTIONS_PER_SESSION
            if self._connections[caller.name] >= most:
                message = (
                    f"key {caller.name!r} has {most} of {most} connections; close one, or ask the operator for more"
                )
                raise PafuError("session_limit", message, retry_after=RETRY_AFTER)
        return _permit(self._connections, caller.name)

    def sessions(self, caller: Caller) -> int:
        """The caller's current number of sessions."""
        return self._sessions[caller.name]

    def check_job(self, caller: Caller, unfinished: int) -> None:
        """Whether the caller may add a job to its ``unfinished`` ones. Raises PafuError job_limit."""
        most = caller.max_jobs
        if most is not None and unfinished >= most:
            message = f"key {caller.name!r} has {unfinished} of {most} unfinished jobs; wait for one or delete one"
            raise PafuError("job_limit", message, retry_after=RETRY_AFTER)


def _permit(counts: Counter[str], name: str) -> Permit:
    counts[name] += 1

    def free() -> None:
        counts[name] -= 1
        if not counts[name]:
            del counts[name]

    return Permit(free)
