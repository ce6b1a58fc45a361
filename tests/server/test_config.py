"""Promise: a setting that cannot work is refused at once, by name, with what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from server.config import ConfigError, Settings, check_data_dir, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("PAFU_")]:
        monkeypatch.delenv(name)


def test_defaults_are_a_server_for_this_machine_alone() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 8000, "pafu-mini")


def test_flags_win_over_variables_and_variables_over_defaults(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_PORT", "9000")
    monkeypatch.setenv("PAFU_MAX_SESSIONS", "7")
    settings = load_settings({"port": 9001, "max_sessions": None})
    assert (settings.port, settings.max_sessions) == (9001, 7)


def test_a_misspelt_variable_is_named_with_the_nearest_known_one(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_MAX_SESIONS", "7")
    with pytest.raises(ConfigError, match="PAFU_MAX_SESIONS.*PAFU_MAX_SESSIONS"):
        load_settings()


def test_variables_of_the_tests_are_not_the_servers_business(monkeypatch) -> None:
    usual = load_settings()
    monkeypatch.setenv("PAFU_TEST_MODEL", "test-tiny")
    assert load_settings() == usual


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PORT", "eighty", "PAFU_PORT.*eighty"),
        ("PORT", "70000", "PAFU_PORT.*70000.*65535"),
        ("MODEL", "pafu-minni", "PAFU_MODEL.*pafu-minni.*pafu-mini"),
        ("MAX_SESSIONS", "0", "PAFU_MAX_SESSIONS.*0.*1"),
        ("LEAD_SECONDS", "nan", "PAFU_LEAD_SECONDS.*nan"),
        ("DEVICE", "tpu", "PAFU_DEVICE.*tpu.*cuda"),
        ("CACHE_POLICY", "best", "policy.*best.*sink_window"),
        ("CACHE_BUDGET_LATENTS", "-2", "^PAFU_CACHE_BUDGET_LATENTS: got '-2'"),
        ("CACHE_BUDGET_LATENTS", "0.001", "choose 0.03125 .one token. to 256 latent frames"),
        ("CACHE_BUDGET_LATENTS", "257", "choose 0.03125 .one token. to 256 latent frames"),
        ("CACHE_RECENT_LATENTS", "9", "budget of 6.*at least 9"),
        ("LEAD_SECONDS", "11", "lead_seconds.*max_lead_seconds"),
        ("METRICS_PORT", "8000", "metrics_port.*8000.*leave it out"),
    ],
)
def test_a_wrong_value_is_told_with_its_variable_and_what_is_allowed(monkeypatch, name, value, told) -> None:
    monkeypatch.setenv(f"PAFU_{name}", value)
    with pytest.raises(ConfigError, match=told):
        load_settings()


def test_a_wrong_value_is_told_with_the_flag_that_gave_it(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_CACHE_BUDGET_LATENTS", "3")
    with pytest.raises(ConfigError, match="^--cache-budget-latents: got -1.0"):
        load_settings({"cache_budget_latents": -1.0})


def test_a_variable_that_is_empty_is_one_that_is_not_set(monkeypatch) -> None:
    for name in ("WEIGHTS", "MAX_SESSIONS", "DATABASE", "API_KEYS", "METRICS_PORT"):
        monkeypatch.setenv(f"PAFU_{name}", "")
    assert load_settings() == Settings()


def test_lists_are_separated_by_commas(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_ALLOWED_HOSTS", "video.example, other.example")
    assert load_settings().allowed_hosts == ("video.example", "other.example")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_a_file_stands_under_variables_and_flags(monkeypatch, tmp_path) -> None:
    file = tmp_path / "pafu.toml"
    file.write_text('port = 9000\nmax_sessions = 7\nlead_seconds = 2\nallowed_hosts = ["a.example", "b.example"]\n')
    monkeypatch.setenv("PAFU_CONFIG", str(file))
    monkeypatch.setenv("PAFU_MAX_SESSIONS", "8")
    settings = load_settings({"port": 9001})
    assert (settings.port, settings.max_sessions, settings.lead_seconds) == (9001, 8, 2)
    assert settings.allowed_hosts == ("a.example", "b.example")


def test_a_data_folder_is_made_and_one_that_cannot_be_written_is_told(tmp_path) -> None:
    check_data_dir(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "file", "is a file"), (Path("/proc/nothing"), "No such file")):
        with pytest.raises(ConfigError, match=f"the data folder {folder}.*{why}.*PAFU_DATA_DIR"):
            check_data_dir(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "pafu.toml cannot be read: No such file"),
        ("port = = 1", "pafu.toml is not TOML"),
        ("max_sesions = 7", "pafu.toml.*max_sesions.*max_sessions"),
        ('port = "eighty"', "^port in .*pafu.toml: got 'eighty'"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_by_name(tmp_path, content, told) -> None:
    file = tmp_path / "pafu.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_settings({"config": file})
