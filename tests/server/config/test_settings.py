"""Promise: an impossible setting is refused at once, by name, with the allowed values."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.config import ConfigError, Settings, check_data_dir, find_temporary_folder, load_settings, make_data_dir


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


def test_a_policy_that_follows_the_camera_is_refused_for_a_model_without_one(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_CACHE_POLICY", "retrieval")
    assert load_settings().cache().policy == "retrieval"
    with pytest.raises(ConfigError, match="^PAFU_CACHE_POLICY: .*'test-wan' has no camera"):
        load_settings({"model": "test-wan"})


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
        ("CACHE_RECENT_LATENTS", "9", "budget of 6.*at least 11"),
        ("LEAD_SECONDS", "11", "lead_seconds.*max_lead_seconds"),
        ("METRICS_PORT", "8000", "metrics_port.*8000.*omit it"),
        ("QUEUE_TIMEOUT", "inf", "PAFU_QUEUE_TIMEOUT.*finite"),
        ("ALLOWED_ORIGINS", "example.com", "PAFU_ALLOWED_ORIGINS.*write 'https://example.com'"),
        ("ALLOWED_ORIGINS", "*", "PAFU_ALLOWED_ORIGINS.*every web page"),
        ("ALLOWED_ORIGINS", "https://*.example.com", "PAFU_ALLOWED_ORIGINS"),
        ("ALLOWED_ORIGINS", "https://example.com/app", "drop everything after https://example.com"),
        ("ALLOWED_ORIGINS", "https://example.com:port", "PAFU_ALLOWED_ORIGINS"),
        ("ALLOWED_ORIGINS", "chrome-extension://abc", "begin with http:// or https://"),
        ("ALLOWED_HOSTS", "https://v2.example.org", "PAFU_ALLOWED_HOSTS.*write 'v2.example.org'"),
        ("ALLOWED_HOSTS", "v2.example.org:8000", "write 'v2.example.org'"),
        ("ALLOWED_HOSTS", "*.example.net", "PAFU_ALLOWED_HOSTS.*wildcard"),
        ("PUBLIC_PATHS", "metrics", "PAFU_PUBLIC_PATHS.*write '/metrics'"),
        ("TRUSTED_PROXIES", "nginx", "PAFU_TRUSTED_PROXIES.*10.0.0.0/8"),
        ("PORT", "tcp://10.96.0.10:8000", "Kubernetes.*enableServiceLinks"),
        ("METRICS_PORT", "tcp://10.96.0.10:8000", "Kubernetes.*enableServiceLinks"),
        ("CACHE_SINK_LATENTS", "99", "^PAFU_CACHE_SINK_LATENTS: .*at least"),
        ("CACHE_WINDOW_LATENTS", "1", "^PAFU_CACHE_WINDOW_LATENTS: .*more than 3"),
        ("SIZE", "100x100", "^PAFU_SIZE: .*not offered; it draws 256x128 or 512x256"),
        ("SIZE", "0x0", "^PAFU_SIZE: got '0x0': size is '0x0': each side must have 1 to 4096"),
        ("SIZE", "large", "^PAFU_SIZE: got 'large': allowed: picture size, as 832x480"),
        ("BASE_PATH", "pafu", "^PAFU_BASE_PATH: .*as /pafu"),
        ("BASE_PATH", "/pafu/../x", "^PAFU_BASE_PATH: .*as /pafu"),
        ("METRICS_HOST", "0.0.0.0", "^PAFU_METRICS_HOST: .*metrics_port"),
        ("WORKER_TIMEOUT", "0.1", "^PAFU_WORKER_TIMEOUT"),
        ("CACHE_ROOM_BYTES", "1" * 40, "^PAFU_CACHE_ROOM_BYTES: .*the maximum is"),
        ("KEEP_ON_DISK", "1e300", "^PAFU_KEEP_ON_DISK: .*the maximum is 1e.09"),
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
    assert not (tmp_path / "new").exists()
    make_data_dir(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "file", "is a file"), (Path("/proc/nothing"), "No such file")):
        with pytest.raises(ConfigError, match=f"the data folder {folder}.*{why}.*PAFU_DATA_DIR"):
            check_data_dir(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "pafu.toml cannot be read: No such file"),
        ("port = = 1", "pafu.toml is not valid TOML"),
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


def test_origins_and_hosts_are_kept_as_browsers_write_them(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_ALLOWED_ORIGINS", "HTTPS://Example.com:443/, http://[::1]:9000")
    monkeypatch.setenv("PAFU_ALLOWED_HOSTS", "V2.example.org, [2001:db8::1]")
    settings = load_settings()
    assert settings.allowed_origins == ("https://example.com", "http://[::1]:9000")
    assert settings.allowed_hosts == ("v2.example.org", "2001:db8::1")


@pytest.mark.parametrize("service", ["PAFU", "PAFU_WEB", "PAFU_2"])
def test_what_kubernetes_says_of_a_service_of_our_name_is_ignored(monkeypatch, service) -> None:
    for name, value in {
        "SERVICE_HOST": "10.96.0.10",
        "SERVICE_PORT": "8000",
        "SERVICE_PORT_HTTP": "8000",
        "PORT_8000_TCP": "tcp://10.96.0.10:8000",
        "PORT_8000_TCP_PROTO": "tcp",
        "PORT_8000_TCP_PORT": "8000",
        "PORT_8000_TCP_ADDR": "10.96.0.10",
    }.items():
        monkeypatch.setenv(f"{service}_{name}", value)
    if service != "PAFU":
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.96.0.10:8000")
    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("max_sessions = true", "max_sessions in .*true and false are not allowed"),
        ("port = [1, 2]", "port must not be the list"),
        ("allowed_hosts = [1]", "allowed_hosts must not be the list"),
        ('weights = ""', "weights in .*empty"),
        ("queue_timeout = inf", "queue_timeout in .*finite"),
    ],
)
def test_a_line_of_a_file_that_cannot_work_is_named(tmp_path, line, told) -> None:
    path = tmp_path / "pafu.toml"
    path.write_text(line)
    with pytest.raises(ConfigError, match=told):
        load_settings({"config": path})


def test_a_secret_may_come_from_a_file(monkeypatch, tmp_path) -> None:
    secret = tmp_path / "keys"
    secret.write_text("a-key-of-sixteen-or-more\nanother-of-sixteen-or-more\n")
    monkeypatch.setenv("PAFU_API_KEYS_FILE", str(secret))
    assert len(load_settings().api_keys) == 2
    monkeypatch.setenv("PAFU_DATABASE_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="PAFU_DATABASE_FILE.*nothing cannot be read"):
        load_settings()
    monkeypatch.delenv("PAFU_DATABASE_FILE")
    monkeypatch.setenv("PAFU_API_KEYS", "a-third-of-sixteen-or-more")
    with pytest.raises(ConfigError, match="PAFU_API_KEYS and PAFU_API_KEYS_FILE"):
        load_settings()


def test_an_error_about_a_secret_from_a_file_does_not_show_it(monkeypatch, tmp_path) -> None:
    secret = tmp_path / "keys"
    secret.write_text("too-short")
    monkeypatch.setenv("PAFU_API_KEYS_FILE", str(secret))
    with pytest.raises(ConfigError, match="PAFU_API_KEYS_FILE.*16") as error:
        load_settings()
    assert "too-short" not in str(error.value)


STRANGE = (" ", "x", "-1", "1e300", "inf", "nan", "9" * 40, "true", "\udcff", "a\nb", "[1]", "{}", "*", "/", "tcp://x")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_any_value_of_a_variable_works_or_is_refused_in_one_line_with_its_name(monkeypatch, name) -> None:
    variable = f"PAFU_{name.upper()}"
    for value in STRANGE:
        monkeypatch.setenv(variable, value)
        try:
            load_settings()
        except ConfigError as error:
            assert variable in str(error) and "\n" not in str(error)


def test_settings_that_contradict_each_other_are_all_named(monkeypatch, tmp_path) -> None:
    file = tmp_path / "pafu.toml"
    file.write_text("cache_window_latents = 9\n")
    monkeypatch.setenv("PAFU_CACHE_RECENT_LATENTS", "1")
    with pytest.raises(ConfigError) as error:
        load_settings({"config": file, "cache_budget_latents": 4.0})
    named = f"--cache-budget-latents and cache_window_latents in {file} and PAFU_CACHE_RECENT_LATENTS: they conflict"
    assert str(error.value).startswith(named)


def test_an_error_found_later_is_told_under_the_name_that_the_user_gave(monkeypatch, tmp_path) -> None:
    (tmp_path / "weights").write_text("/nothing")
    (tmp_path / "pafu.toml").write_text('host = "no.such.host"')
    monkeypatch.setenv("PAFU_WEIGHTS_FILE", str(tmp_path / "weights"))
    monkeypatch.setenv("PAFU_VIDEOS", "s3://bucket")
    settings = load_settings({"config": tmp_path / "pafu.toml", "device": "cuda"})
    for field, name in {
        "device": "--device",
        "weights": "PAFU_WEIGHTS_FILE",
        "videos": "PAFU_VIDEOS",
        "host": f"host in {tmp_path / 'pafu.toml'}",
    }.items():
        assert settings.explained(ConfigError("it is not there", field)) == f"{name}: it is not there"
    assert settings.explained(ConfigError("it is taken", "port")) == "it is taken"  # nobody set it


def test_where_the_system_has_no_temporary_folder_the_data_folder_has_one(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TMPDIR", "")  # so that what is set meanwhile is taken back
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    find_temporary_folder(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], capture_output=True, text=True
    )
    assert child.stdout.strip() == tempfile.gettempdir() == str(tmp_path / "tmp")


def test_where_no_folder_takes_temporary_files_tmpdir_is_named(monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", "")  # so that what is set meanwhile is taken back
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(ConfigError, match="TMPDIR"):
        find_temporary_folder(Path("/proc/nothing"))


def test_a_user_without_a_home_makes_no_folder_called_tilde(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="PAFU_DATA_DIR"):
        check_data_dir(Path("~/.local/state/pafu"))
    assert list(tmp_path.iterdir()) == []
