"""Errors of the cache, with messages for the person who configured it."""

from __future__ import annotations


class CacheError(ValueError):
    """A cache was built, filled or restored with data that does not fit its geometry."""


class PolicyError(CacheError):
    """An unknown policy, or a budget too small for the tokens that the policy must keep."""


class CacheFull(CacheError):
    """The ``full`` policy, which never evicts, has more tokens than its budget."""


class CacheCorrupt(CacheError):
    """``check_integrity`` found a state that no sequence of commits can produce."""
