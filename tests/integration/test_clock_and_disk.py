"""A wrong clock and a full disk: commands refuse what they would date wrong, doctor tries to write, status says it."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.cli.nouns import doctor
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import explain
from drawdown.schema.errors import Exit, StorageFull
from drawdown.schema.tables.whole import metadata
from drawdown.schema.units import MINUTE_MS
from tests.world import Fleet

GRANT = ("ledger", "grant", "acme", "5", "--key", "first", "--new")
DATED = (
    GRANT,
    ("org", "assign", "acme", "--provider", "embedded"),
    ("org", "halt", "acme", "--reason", "abuse"),
    ("ledger", "rate", "compute_1gb", "--micro-credits", "5"),
)


@pytest.fixture
def fleet(engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleet:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    made = Fleet(engine)
    made.clock.at_ms = SystemClock().now_ms()
    made.assign("acme")
    return made


def behind(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    kept = SystemClock.now_ms
    monkeypatch.setattr(SystemClock, "now_ms", lambda clock: kept(clock) - ms)


def ticked(fleet: Fleet) -> None:
    fleet.tick()
    fleet.write("UPDATE ticks SET clock_trusted = FALSE")


@pytest.mark.both_databases
@pytest.mark.parametrize("command", DATED, ids=lambda words: " ".join(words[:2]))
def test_command_with_clock_set_back_is_refused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    ticked(fleet)
    behind(monkeypatch, 10 * MINUTE_MS)
    assert run(["--json", *command]) == Exit.PERSON
    said = json.loads(capsys.readouterr().out)
    assert said["code"] == "clock_doubted" and "Drawdown did not change the database" in said["error"]
    assert fleet.one("SELECT COUNT(*) FROM ledger_lots") == 0


STEPS = (("import", "s.csv"), ("recover",), ("parity", "check", "t.csv"), ("watch", "--once"), ("reconcile",))


@pytest.mark.parametrize("words", STEPS, ids=lambda words: words[0])
def test_multi_step_command_with_clock_set_back_is_refused(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    """They date samples, losses, counts and verdicts, in several transactions."""
    monkeypatch.chdir(tmp_path)
    Path("s.csv").write_text(
        "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts\ns1,acme,b,c,1024,60,2026-01-01T00:00:30Z\n"
    )
    Path("t.csv").write_text("day,cell_id,org_id,seconds\n2026-01-01,cell-1,acme,60\n")
    ticked(fleet)
    before = _content(fleet)
    behind(monkeypatch, 10 * MINUTE_MS)
    assert run(["--json", *words]) == Exit.PERSON
    assert json.loads(capsys.readouterr().out)["code"] == "clock_doubted"
    assert _content(fleet) == before


def test_verify_with_clock_set_back_is_not_stored(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticked(fleet)
    behind(monkeypatch, 10 * MINUTE_MS)
    assert run(["verify"]) == 0
    assert "is not stored for `drawdown proof`" in capsys.readouterr().out
    assert fleet.one("SELECT COUNT(*) FROM proofs") == 0


def _content(fleet: Fleet) -> dict[str, int]:
    with fleet.engine.connect() as connection:
        return {name: connection.scalar(sa.text(f'SELECT COUNT(*) FROM "{name}"')) or 0 for name in metadata.tables}


@pytest.mark.both_databases
def test_command_within_clock_allowance_or_with_at_is_accepted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    ticked(fleet)
    behind(monkeypatch, 5_000)
    assert run(["--json", *GRANT]) == 0
    behind(monkeypatch, 10 * MINUTE_MS)
    assert run(["--json", "--at", "1m", "ledger", "grant", "acme", "5", "--key", "second"]) == 0


def test_status_shows_ticks_stopped_by_clock_check(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticked(fleet)
    behind(monkeypatch, 26 * 60 * MINUTE_MS)
    assert run(["--json", "tick"]) == Exit.PERSON
    capsys.readouterr()
    assert run(["--json", "status"]) == Exit.PERSON
    said = json.loads(capsys.readouterr().out)
    assert said["reason"].startswith("ticks stop at the clock check: the last tick was 1.1 days in the future")


def full(*_: object) -> None:
    raise sa.exc.OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))


def test_full_database_disk_is_reported_by_error_and_doctor(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(sa.exc.OperationalError) as raised:
        full()
    found = explain(raised.value)
    assert isinstance(found, StorageFull) and found.exit_status == Exit.PERSON and "Free some space" in str(found)
    monkeypatch.setattr(doctor, "touch", full)
    assert run(["doctor"]) == Exit.PERSON
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be written" in said
    assert "Free some space" in said


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "Free some space"), (errno.EROFS, "DRAWDOWN_STATE_DIR")])
def test_doctor_unwritable_or_full_state_folder_is_reported(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    def fails(_number: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("drawdown.worker.history.witness.os.fsync", fails)
    assert run(["doctor"]) == Exit.PERSON
    assert said in " ".join(capsys.readouterr().out.split())
    ends = run(["--json", "tick"])
    told = json.loads(capsys.readouterr().out)
    if number == errno.ENOSPC:
        assert (ends, told["code"]) == (Exit.PERSON, "storage_full")
        assert "Keep the folder" in told["error"] and "DRAWDOWN_STATE_DIR" not in told["error"]
    else:
        assert ends == Exit.USAGE


def test_doctor_does_not_leave_files(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fleet.rows("SELECT * FROM watch_state")
    run(["doctor"])
    assert list((tmp_path / "state").iterdir()) == []
    assert fleet.rows("SELECT * FROM watch_state") == before
