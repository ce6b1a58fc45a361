"""Promise: the doctor looks at what pafu serve needs, finds what is wrong, and says what to do about it."""

from __future__ import annotations

import importlib.metadata
import socket

import pytest

from cache.kv_cache import KVCache
from model.spec import spec_named
from server import doctor
from server.config import ConfigError, Settings

SPEC = spec_named("test-tiny")


def test_the_bytes_of_a_session_are_those_that_its_cache_will_take() -> None:
    import torch

    settings = Settings(model="test-tiny", cache_budget_latents=9)
    cache = KVCache(
        layers=SPEC.num_layers,
        heads=SPEC.num_heads,
        head_dim=SPEC.head_dim,
        budget=9 * SPEC.tokens_per_latent,
        chunk=SPEC.tokens_per_chunk,
        policy="window",
        sink=0,
        recent=0,
        dtype=torch.float32,
        position_range=None,
    )
    assert doctor.session_bytes(settings, SPEC, "float32") == cache.nbytes


def test_more_sessions_than_fit_are_wrong_with_the_setting_to_change(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: doctor.KEPT_FREE + 3 * 2**30)
    assert "fit" in doctor.sessions(Settings(model="test-tiny", device="cpu", max_sessions=4), SPEC)
    with pytest.raises(doctor.Wrong, match="PAFU_MAX_SESSIONS is 500: lower it"):
        doctor.sessions(Settings(model="test-tiny", device="cpu", max_sessions=500), SPEC)


def test_memory_that_is_nearly_gone_fits_nobody(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 10 * 2**20)
    with pytest.raises(doctor.Wrong, match="^0 fit"):
        doctor.sessions(Settings(model="test-tiny", device="cpu"), SPEC)


def test_a_package_that_is_too_old_is_named_with_what_is_needed(monkeypatch) -> None:
    assert doctor.outdated() == []
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.51.0" if name == "uvicorn" else real(name))
    (found,) = doctor.outdated()
    assert found.startswith("uvicorn is 0.51.0, at least 0.5")


@pytest.mark.parametrize(("older", "newer"), [("0.9", "0.10"), ("1.2.3", "1.10"), ("2.0.0rc1", "2.1")])
def test_versions_are_compared_as_numbers(older, newer) -> None:
    assert doctor.numbers(older) < doctor.numbers(newer)


def test_a_metrics_port_that_is_taken_is_named_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="--metrics-port or PAFU_METRICS_PORT"):
            doctor.metrics_port(Settings(metrics_port=taken.getsockname()[1]))
