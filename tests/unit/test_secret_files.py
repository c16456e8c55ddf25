"""Settings in files: what is refused, what is taken again, and what is kept while a file is bad."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from drawdown.cli import app as states
from drawdown.cli import settings
from drawdown.cli.app import App
from drawdown.cli.settings import MAX_BYTES
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError

CANARY = "canary-7f3a9c-secret"
NAME = "DRAWDOWN_CRON_SECRET_FILE"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("DRAWDOWN_")]:
        monkeypatch.delenv(name)
    found = tmp_path / "secret"
    found.write_text(f"{CANARY}\n")
    monkeypatch.setenv(NAME, str(found))
    return found


class Logs(list[dict[str, str]]):
    """What was told, whatever the level of the tests' own logs."""

    def told(self, event: str, **names: str) -> None:
        self.append({"event": event, **names})

    error = info = told


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    found = Logs()
    for module in (settings, states):
        monkeypatch.setattr(module, "log", found)
    return found


def put(file: Path, content: bytes | None) -> None:
    """In one moment, as whoever mounts secrets does."""
    if content is None:
        return file.unlink()
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)
    return None


BAD: dict[str, bytes | None] = {
    "cannot be read: No such file": None,
    "is empty": b"",
    "is empty ": b" \r\n",
    "is not UTF-8": CANARY.encode() + b"\xff",
    "more than 131,072 bytes": CANARY.encode() + b"x" * MAX_BYTES,
}


def said_of(file: Path) -> str:
    with pytest.raises(UsageError) as caught:
        settings.load()
    said = str(caught.value)
    assert CANARY not in said and caught.value.__cause__ is None
    return said


@pytest.mark.parametrize("what", BAD)
def test_secret_file_unusable_is_named_and_not_quoted(file: Path, what: str) -> None:
    put(file, BAD[what])
    said = said_of(file)
    assert NAME in said and str(file) in said and what.strip() in said


def test_secret_file_at_limit_is_read_without_line_end(file: Path) -> None:
    put(file, b"x" * (MAX_BYTES - 2) + b"\r\n")
    assert settings.load().server().cron_secret == "x" * (MAX_BYTES - 2)


def test_secret_file_folder_pipe_or_socket_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.unlink()
    file.mkdir()
    assert "not a regular file" in said_of(file)
    file.rmdir()
    os.mkfifo(file)
    assert "not a regular file" in said_of(file)
    file.unlink()
    monkeypatch.chdir(file.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(file.name)
        assert "cannot be read" in said_of(file)


@pytest.mark.skipif(os.getuid() == 0, reason="whoever is root reads everything")
def test_secret_file_without_permission_is_refused(file: Path) -> None:
    file.chmod(0)
    assert "Permission denied" in said_of(file)


def test_secret_in_both_variable_and_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAWDOWN_CRON_SECRET", CANARY)
    said = said_of(file)
    assert "DRAWDOWN_CRON_SECRET and DRAWDOWN_CRON_SECRET_FILE" in said
    monkeypatch.setenv("DRAWDOWN_CRON_SECRET", "")
    assert settings.load().server().cron_secret == CANARY, "what is empty is not given"
    monkeypatch.setenv("DRAWDOWN_LOG_LEVEL_FILE", str(file))
    assert "DRAWDOWN_LOG_LEVEL_FILE: this setting cannot come from a file" in said_of(file)


def test_secret_settings_may_each_come_from_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*(one for one in settings.Settings.model_fields if "secret" in one), "tally_key"):
        monkeypatch.setenv(f"DRAWDOWN_{name.upper()}_FILE", str(file))
    secret = "a=" + "b" * 40  # as long as any has to be
    put(file, secret.encode())
    found = settings.load()
    assert found.of_providers()["tally_key"] == secret and "tally_key_file" not in found.of_providers()
    assert found.server().admin_secrets == (secret,) and found.server().cron_secret == secret
    assert found.cells().roots == (secret,) and found.cells().secrets == {"a": ("b" * 40,)}
    assert secret not in repr(found)


def test_database_url_option_wins_over_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL_FILE", str(file))
    put(file, b"postgresql://a:b@c/d")
    assert settings.load().database_url == "postgresql://a:b@c/d"
    file.unlink()
    assert "DRAWDOWN_DATABASE_URL_FILE" in said_of(file)
    assert settings.load("sqlite:///x.db").database_url == "sqlite:///x.db"


def state(file: Path) -> App:
    return App(settings.load("sqlite://"), FixedClock(0))


def test_secret_file_change_is_applied_and_bad_file_is_logged_once(file: Path, logs: Logs) -> None:
    here = state(file)
    there = App(here.settings, here.clock)  # another thread's
    for number, content in enumerate([b"second", *BAD.values(), *BAD.values(), b"third"]):
        put(file, content) if content is not None or file.exists() else None
        here.read_files_again()
        here.read_files_again()
        wanted = "third" if content == b"third" else "second"
        assert here.settings.server().cron_secret == wanted, number
    assert there.renew() and not there.renew()
    assert there.settings.server().cron_secret == "third"
    bad = [one for one in logs if one["event"] == "settings_file_bad"]
    assert {one["setting"] for one in bad} == {NAME} and len(bad) == 2 * len(BAD) - 2, "each reason as it comes"
    assert [one["event"] for one in logs if "taken" in one["event"]] == ["settings_file_taken"] * 2
    assert CANARY not in repr(logs)


def test_secret_file_invalid_content_is_not_applied(file: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    monkeypatch.delenv(NAME)
    monkeypatch.setenv("DRAWDOWN_CELL_SECRETS_FILE", str(file))
    assert "CELL=SECRET" in said_of(file)
    put(file, b"cell-1=one")
    here = state(file)
    put(file, f"cell-1:{CANARY}".encode())
    here.read_files_again()
    assert here.settings.cells().secrets_of("cell-1") == ("one",)
    assert "CELL=SECRET" in logs[0]["reason"] and CANARY not in repr(logs)


def test_database_url_file_change_applies_only_login(file: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    monkeypatch.delenv(NAME)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL_FILE", str(file))
    assert "not contain a URL" in said_of(file)
    put(file, b"postgresql://a:b@c/d")
    found = settings.load()
    for text, wanted in (
        ("postgresql://e:f@c/d", "postgresql://e:f@c/d"),
        ("postgresql://e:f@c/other", "postgresql://e:f@c/d"),
        (f"postgresql://{CANARY}:no/", "postgresql://e:f@c/d"),
        ("postgresql://c/d", "postgresql://c/d"),
    ):
        put(file, text.encode())
        found.files.read_again()
        assert found.latest_database_url() == wanted
        assert CANARY not in repr(logs)


def test_provider_with_invalid_new_key_keeps_old_key(file: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    monkeypatch.delenv(NAME)
    monkeypatch.setenv("DRAWDOWN_AUTUMN_SECRET_KEY_FILE", str(file))
    put(file, b"am_sk_test_first_key")
    here = state(file)
    first = here.registry.providers["autumn"]
    assert first.dormant is None
    put(file, CANARY.encode())
    here.read_files_again()
    assert here.registry.providers["autumn"] is first and "autumn" not in here.registry.broken
    assert [one["provider"] for one in logs if one["event"] == "provider_not_renewed"] == ["autumn"]
    assert CANARY not in repr(logs)
    put(file, b"am_sk_test_second_key")
    here.read_files_again()
    assert here.registry.providers["autumn"] is not first and here.registry.broken == {}
