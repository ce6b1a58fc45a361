"""Errors of the job store, in a separate module so that the front need not import a database library."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The store is misconfigured; the message says what to change."""


class StoreUnavailable(RuntimeError):
    """The database did not answer in time; the operation may or may not have taken effect."""


class LeaseLost(RuntimeError):
    """The job was deleted or another server has taken it over: stop working on it and write nothing more."""


class IdempotencyConflict(ValueError):
    """The idempotency key was used for a different request."""
