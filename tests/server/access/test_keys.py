"""Promise: keys are stored hashed, compared in constant time, and stop working at once when removed."""

from __future__ import annotations

import hmac
import os
import stat
from types import SimpleNamespace

import pytest

from model.spec import TEST_TINY
from server.access import keys
from server.access.keys import Keyring
from server.access.limits import Caller
from server.access.operator import Operator
from server.config import ConfigError, Settings, load_settings
from server.errors import PafuError
from server.live import archive
from server.live.hls_output import HlsOutputs
from server.live.session import new_token

PLAIN = "a-key-of-sixteen-or-more"


def test_a_made_key_is_printed_once_and_only_its_hash_is_kept(tmp_path) -> None:
    path = tmp_path / "keys.toml"
    secret = keys.add(path, "alice", {"max_sessions": 2})
    assert secret.startswith("pafu_") and len(secret) > 40
    assert secret not in path.read_text() and keys.digest(secret).hex() in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]  # nothing left aside
    assert Keyring(Settings(keys_file=path)).caller(secret) == Caller("alice", max_sessions=2)


def test_settings_keep_no_secret_of_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_API_KEYS", f"{PLAIN}, sha256:{'0' * 64}")
    settings = load_settings()
    assert PLAIN not in repr(settings) and len(settings.api_keys) == 2
    assert Keyring(settings).caller(PLAIN).name.startswith("key-")


def test_an_error_about_a_key_does_not_show_it(monkeypatch) -> None:
    monkeypatch.setenv("PAFU_API_KEYS", "too-short")
    with pytest.raises(ConfigError, match="PAFU_API_KEYS.*16") as error:
        load_settings()
    assert "too-short" not in str(error.value)


def test_a_key_more_keeps_the_rights_of_the_file_so_that_a_server_of_another_user_reads_it(tmp_path) -> None:
    path = tmp_path / "keys.toml"
    keys.add(path, "alice", {})
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    before = path.stat()
    keys.add(path, "bob", {})
    keys.remove(path, "alice")
    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == 0o644
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


@pytest.fixture
def compared(monkeypatch) -> list[tuple[bytes, bytes]]:
    """What is compared in constant time."""
    pairs, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: pairs.append((a, b)) or compare(a, b))
    return pairs


def test_the_operator_s_secret_is_compared_in_constant_time(compared, tmp_path) -> None:
    operator = Operator(tmp_path)
    operator.prepare()
    assert operator.known_by(operator.read() or "") and not operator.known_by("guessed") and len(compared) == 2


def test_the_token_of_an_address_to_watch_is_compared_in_constant_time(compared) -> None:
    session = SimpleNamespace(watch_token="0" * 32, caller="alice")
    outputs = HlsOutputs({"sess_1": session}, TEST_TINY, lambda caller: False)
    for token in ("0" * 32, "0" * 31 + "1", "?"):
        with pytest.raises(PafuError, match="there is no session"):
            outputs.find("sess_1", token)
    assert [one == other for one, other in compared] == [True, False, False]


def test_nothing_of_a_resume_token_is_in_what_is_stored_of_it() -> None:
    token = new_token()
    assert archive.hashed(token) != archive.hashed(token[:-1]) and len(archive.hashed(token)) == 32
    assert not any(token[begin : begin + 4].encode() in archive.hashed(token) for begin in range(len(token) - 3))


def test_every_key_is_compared_in_constant_time_whichever_it_is(monkeypatch, tmp_path) -> None:
    path = tmp_path / "keys.toml"
    secrets = [keys.add(path, name, {}) for name in ("first", "second", "third")]
    ring = Keyring(Settings(keys_file=path))
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    for secret in (*secrets, "wrong", "", "pafu_", "\udc80"):
        compared.clear()
        assert (ring.caller(secret) is not None) == (secret in secrets)
        assert len(compared) == 3 and all(len(side) == 32 for pair in compared for side in pair)


def test_a_key_is_given_and_taken_away_while_the_server_runs(tmp_path) -> None:
    path = tmp_path / "keys.toml"
    first = keys.add(path, "first", {})
    ring = Keyring(Settings(keys_file=path))
    second = keys.add(path, "second", {})
    assert ring.caller(second).name == "second"
    keys.remove(path, "first")
    assert ring.caller(first) is None and ring.caller(second)
    keys.remove(path, "second")
    assert ring.caller(second) is None and ring.required  # nobody may pass; not everybody
    path.unlink()
    assert ring.caller(second) is None and ring.required


def test_a_file_that_is_broken_while_the_server_runs_takes_no_key_away(tmp_path, caplog) -> None:
    path = tmp_path / "keys.toml"
    secret = keys.add(path, "first", {})
    ring = Keyring(Settings(keys_file=path))
    path.write_text("[keys")
    assert ring.caller(secret).name == "first" and "not valid TOML" in caplog.text


def test_limits_of_a_key_stand_before_the_servers_own(tmp_path) -> None:
    path = tmp_path / "keys.toml"
    secret = keys.add(path, "alice", {"max_jobs": 0})
    ring = Keyring(Settings(keys_file=path, max_jobs_per_key=9, requests_per_minute_per_key=60))
    assert ring.caller(secret) == Caller("alice", max_sessions=None, max_jobs=0, requests_per_minute=60)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no keys.*pafu keys add"),
        ("[keys", "not valid TOML"),
        ("keys = 3", r"may only have tables \[keys.NAME\]"),
        ("[other]", r"may only have tables \[keys.NAME\]"),
        ("[keys.Alice]\nsha256='x'", "'Alice' is not a valid key name"),
        ("[keys.alice]\nsha256='x'", r"\[keys.alice\] sha256"),
        ("[keys.alice]", r"\[keys.alice\] sha256"),
        (f"[keys.alice]\nsha256='{'0' * 64}'\nmax_jobs='2'", r"\[keys.alice\] max_jobs"),
        (f"[keys.alice]\nsha256='{'0' * 64}'\nmax_job=2", r"\[keys.alice\] max_job"),
    ],
)
def test_a_wrong_keys_file_is_named_with_the_place_at_fault(tmp_path, text, told) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        Keyring(Settings(keys_file=path))


def test_a_missing_keys_file_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="keys.toml"):
        Keyring(Settings(keys_file=tmp_path / "keys.toml"))


@pytest.mark.parametrize("name", ["", "Alice", "a.b", "../x", "a b", "a" * 64, 'a"]'])
def test_only_plain_names_become_keys(tmp_path, name) -> None:
    with pytest.raises(ConfigError, match="is not a valid key name"):
        keys.add(tmp_path / "keys.toml", name, {})


def test_a_name_is_given_once(tmp_path) -> None:
    keys.add(tmp_path / "keys.toml", "alice", {})
    with pytest.raises(ConfigError, match="already"):
        keys.add(tmp_path / "keys.toml", "alice", {})
    with pytest.raises(ConfigError, match="no key 'bob'; it has: alice"):
        keys.remove(tmp_path / "keys.toml", "bob")


def test_a_key_ends_when_its_time_is_over(tmp_path) -> None:
    path = tmp_path / "keys.toml"
    short, long = keys.add(path, "short", {}, days=0.0), keys.add(path, "long", {}, days=1.0)
    ring = Keyring(Settings(keys_file=path))
    caller = ring.caller(long)
    assert ring.caller(short) is None and caller is not None
    assert ring.stands(caller) and ring.has_key("long") and not ring.has_key("short")
    assert not ring.stands(Caller("short", key=keys.digest(short).hex())), "what it opened ends with it"


def test_a_name_that_is_taken_says_how_one_key_replaces_another(tmp_path) -> None:
    path = tmp_path / "keys.toml"
    keys.add(path, "alice", {})
    with pytest.raises(ConfigError, match="pafu keys add alice-2 --owner alice"):
        keys.add(path, "alice", {})
