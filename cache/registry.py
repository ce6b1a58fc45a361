"""The table of all policies, by name."""

from __future__ import annotations

from cache.config import POLICY_NAMES
from cache.errors import PolicyError
from cache.policy import Asked, Attention, Full, Oracle, Pafu, Policy, Random, Redundancy, Salience, SinkWindow, Window
from cache.rules import (
    RKV,
    Density,
    FieldOfView,
    HeavyHitters,
    KeyDifference,
    Merging,
    Pyramid,
    RecentQuery,
    Retrieval,
    SalientRetrieval,
    TextTopK,
    Tova,
    Trigonometric,
    ValueNovelty,
)

_ALL: tuple[Policy, ...] = (
    Full(),
    Window(),
    SinkWindow(),
    Random(),
    Attention(),
    HeavyHitters(),
    Tova(),
    RecentQuery(),
    Trigonometric(),
    KeyDifference(),
    Density(),
    RKV(),
    Redundancy(),
    ValueNovelty(),
    TextTopK(),
    FieldOfView(),
    Retrieval(),
    SalientRetrieval(),
    Merging(),
    Pyramid(),
    Salience(),
    Pafu(),
    Asked(),
    Oracle(),
)
POLICIES: dict[str, Policy] = {policy.name: policy for policy in _ALL}


def policy_named(name: str) -> Policy:
    """The policy called ``name``. Raises PolicyError, which lists the known names."""
    if name not in POLICIES:
        raise PolicyError(f"unknown cache policy {name!r}; known policies: {', '.join(POLICY_NAMES)}")
    return POLICIES[name]
