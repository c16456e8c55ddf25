"""What a clock that was ahead left behind, and what no tick has seen: each is said before somebody is misled by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.cli.nouns.status import WIDTH
from drawdown.schema.clock import utc
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from tests.integration.test_events_cli import Shell, begun
from tests.sqlite_databases import fresh
from tests.world import T0


@pytest.fixture
def shell(engine: sa.Engine, database_url: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    return begun(engine, database_url, capsys)


def findings(shell: Shell, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    run(["--database-url", shell._url, "--at", str(shell.fleet.clock.at_ms), "--json", "doctor"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return found


def test_status_samples_since_last_tick_are_shown(shell: Shell) -> None:
    """While hosts work there is always some: nobody is woken by it, and a verdict that came and went would say less."""
    fleet = shell.fleet
    fleet.tick(T0 + 3 * WINDOW_MS)
    assert "arrived since" not in shell("status") and shell.json("status")["unread_samples"] == 0
    fleet.sample("acme", T0 + 1)
    fleet.sample("nobody", T0 - 6 * DAY_MS)
    fleet.sample("acme", T0 + 2, interval_s=-5)  # quarantined: no tick will bill it
    said = shell("status", 75)
    assert "2 samples arrived since, for the next tick" in " ".join(said.split())
    fleet.tick(T0 + 4 * WINDOW_MS)
    assert "arrived since" not in shell("status", 75)


def test_doctor_tick_ahead_of_now_does_not_hide_stale_tick(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """The clock was a day ahead for one tick, and the cron has been dead since."""
    fleet = shell.fleet
    fleet.tick(T0 + 3 * WINDOW_MS)
    fleet.tick(T0 + DAY_MS)
    fleet.clock.at_ms = T0 + 3 * WINDOW_MS + 40 * MINUTE_MS
    wrong = [one["what"] for one in findings(shell, capsys) if not one["ok"]]
    assert f"the last tick ended at {utc(T0 + 3 * WINDOW_MS)}" in wrong
    assert any(f"ended at {utc(T0 + DAY_MS)}" in what and "ahead of now" in what for what in wrong)


def test_doctor_only_tick_ahead_of_now_is_reported(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = shell.fleet
    fleet.tick(T0 + DAY_MS)
    fleet.clock.at_ms = T0 + WINDOW_MS
    about = [one for one in findings(shell, capsys) if "tick" in one["what"] and "ended" in one["what"]]
    assert [one["ok"] for one in about] == [False] and "ahead of now" in about[0]["what"]


def test_windows_sealed_ahead_of_now_are_reported_and_usage_is_billed(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = shell.fleet
    fleet.tick(T0 + DAY_MS)
    sealed = int(str(fleet.one("SELECT MAX(watermark_ms) FROM buckets")))
    fleet.clock.at_ms = T0 + 3 * WINDOW_MS
    for words in ("status", "status acme"):
        run(["--database-url", shell._url, "--at", str(fleet.clock.at_ms), *words.split()])
        said = capsys.readouterr().out
        assert f"up to {utc(sealed)}, 23 h 40 min ahead of now: a clock was ahead." in " ".join(said.split())
        assert max(len(line) for line in said.splitlines() if not line.startswith("  next:")) <= WIDTH
    (found,) = [one for one in findings(shell, capsys) if "sealed up to" in one["what"]]
    assert not found["ok"] and utc(sealed) in found["what"] and found["fix"]
    refused = shell("org assign acme --provider none", 1)
    assert f"windows up to {utc(sealed)} are sealed" in refused and str(sealed) not in refused
    fleet.sample("acme", T0 + 2 * WINDOW_MS)
    fleet.tick(T0 + 4 * WINDOW_MS)
    assert fleet.pushes() == [("acme", T0 + 2 * WINDOW_MS, "compute_1gb", 0, 60, "accepted")], "billed all the same"


def test_doctor_restored_backup_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, backup = tmp_path / "drawdown.db", tmp_path / "backup.db"

    def does(words: str) -> str:
        run(["--database-url", f"sqlite:///{file}", *words.split()])
        return capsys.readouterr().out

    fresh(file).dispose()
    does("tick")
    shutil.copy(file, backup)
    does("tick")
    assert "in doubt" not in does("doctor")
    shutil.copy(backup, file)
    said = does("doctor")
    assert "WRONG" in said and "the database may have lost history" in said and "drawdown recover --dry-run" in said
