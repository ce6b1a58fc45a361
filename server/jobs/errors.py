"""Errors of the job store; in a module of their own, so that the front need not import a database library."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The store cannot be used as it is configured; the message says what to change."""


class StoreUnavailable(RuntimeError):
    """The database does not answer, or not in time; what was asked may or may not have happened."""


class LeaseLost(RuntimeError):
    """Somebody else has the job by now, or it was deleted: stop working on it, write nothing more."""


class IdempotencyConflict(ValueError):
    """The idempotency key was used for another order."""
