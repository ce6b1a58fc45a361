"""What can go wrong with a cache, each with a message for the person who configured it."""

from __future__ import annotations


class CacheError(ValueError):
    """A cache was built, filled or restored in a way that contradicts its geometry."""


class PolicyError(CacheError):
    """An unknown policy, or a budget that cannot hold what the policy must keep."""


class CacheFull(CacheError):
    """The ``full`` policy was asked to hold more than its budget: it never evicts."""


class CacheCorrupt(CacheError):
    """``check_integrity`` found stored numbers that no sequence of commits can produce."""
