"""What nightly checks find is kept: the newest, of each kind, for metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.schema import database
from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS
from drawdown.worker.checks import checks
from drawdown.worker.checks.checks import LastCheck, keep, last_checks
from drawdown.worker.provider.vendors import BillFile, BillLine, Units, import_bills, set_units
from tests.integration.guarding import Guarded
from tests.integration.losing import lost
from tests.integration.verifying import verified
from tests.world import T0, Fleet


def last(engine: sa.Engine) -> dict[str, LastCheck]:
    return read(engine, last_checks)


def test_last_checks_hold_newest_result_of_each_kind(engine: sa.Engine) -> None:
    assert last(engine) == {}
    write(engine, lambda c: keep(c, "guard", 100, off=3, alerts=2))
    write(engine, lambda c: keep(c, "vendors", 50, off=1, alerts=0))
    write(engine, lambda c: keep(c, "guard", 99, off=9, alerts=9))
    assert last(engine) == {"guard": LastCheck(100, 3, 2), "vendors": LastCheck(50, 1, 0)}
    write(engine, lambda c: keep(c, "guard", 100, off=0, alerts=0))
    assert last(engine)["guard"] == LastCheck(100, 0, 0)
    for off, alerts in ((1, 2), (-1, -1)):
        with pytest.raises(sa.exc.DBAPIError):
            write(engine, lambda c, off=off, alerts=alerts: keep(c, "guard", 101, off=off, alerts=alerts))  # type: ignore[misc]


@pytest.fixture
def guarded(engine: sa.Engine) -> Guarded:
    """Two uses of `look`, and a counter of the month that says 1 too many of 10."""
    made = Guarded(engine)
    made.limit("look", 100)
    made.consume("look", 6)
    made.consume("look", 4)
    made.fleet.write("UPDATE guard_counters SET used = 11 WHERE period = 'month'")
    return made


def test_guard_reconcile_corrects_counters_and_records_check(guarded: Guarded) -> None:
    since = guarded.fleet.clock.at_ms - checks.SPAN_MS
    found = guarded.read(lambda c: checks.look(c, since))
    assert [(one.period, one.counted, one.quantity) for one in found] == [("month", 11, 10)]
    judged = checks.judge_drift(found, 0)
    assert (judged.corrected, judged.above_tolerance, judged.exit_status) == (0, 1, 1)
    assert checks.judge_drift(found, 100_000).exit_status == 0
    assert last(guarded.fleet.engine) == {}, "a dry run keeps nothing"

    done = guarded.write(lambda c: checks.put_right(c, found, 100_000, guarded.fleet.by))
    assert (done.corrected, done.above_tolerance, done.exit_status) == (1, 0, 0)
    assert last(guarded.fleet.engine)["guard"] == LastCheck(guarded.fleet.by.now_ms, 1, 0)
    assert verified(guarded.fleet).clean
    again = guarded.read(lambda c: checks.look(c, since))
    assert guarded.write(lambda c: checks.put_right(c, again, 0, replace(guarded.fleet.by, reason="more"))).drifts == []
    assert last(guarded.fleet.engine)["guard"].off == 0


def test_guard_reconcile_repeated_soon_preserves_alert(guarded: Guarded) -> None:
    """A counter that was off again meanwhile is one."""
    engine, by = guarded.fleet.engine, guarded.fleet.by

    def reconciled(by: By, used: int | None = None) -> tuple[int, LastCheck]:
        if used is not None:
            guarded.fleet.write(f"UPDATE guard_counters SET used = {used}")
        found = guarded.read(lambda c: checks.look(c, T0 - checks.SPAN_MS))
        return guarded.write(lambda c: checks.put_right(c, found, 0, by)).exit_status, last(engine)["guard"]

    soon = replace(by, now_ms=by.now_ms + checks.AGAIN_MS)
    assert reconciled(by) == (1, LastCheck(by.now_ms, 1, 1)), "this answer is lost"
    assert reconciled(soon) == (0, LastCheck(soon.now_ms, 1, 1))
    assert reconciled(soon, 12) == (1, LastCheck(soon.now_ms, 3, 3))
    later = replace(soon, now_ms=soon.now_ms + checks.AGAIN_MS + 1)
    for other in (replace(soon, actor="ann"), replace(soon, reason="once more"), later):
        assert reconciled(other) == (0, LastCheck(other.now_ms, 0, 0))


def test_guard_reconcile_after_lost_commit_names_audit_command(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = guarded.fleet.engine.url.render_as_string(hide_password=False)
    monkeypatch.setattr(database, "_commit", lost)
    assert drawdown(["--database-url", url, "--at", "2026-01-10", "guard", "reconcile"]) == 75
    assert (
        "1 counter differed; repeat the command. `drawdown audit list --action guard_correct`" in capfd.readouterr().err
    )


def billed(fleet: Fleet, *dollars: int) -> None:
    """From the first day on, at a vendor where nothing was used."""
    units = Units("cloud", "vm", "hour", 1, 1_000_000, 3600, "USD")
    write(fleet.engine, lambda c: set_units(c, "compute_1gb", units, T0, fleet.by, new=True))
    lines = [BillLine("cloud", "vm", T0 + day * DAY_MS, "USD", of * 1_000_000, True) for day, of in enumerate(dollars)]
    write(fleet.engine, lambda c: import_bills(c, BillFile("bills", lines), fleet.by))


def test_vendor_drift_on_two_days_alerts_and_is_recorded(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    billed(fleet, 9, 9, 0, 9)
    at = T0 + 6 * DAY_MS + 5
    found = write(engine, lambda c: checks.check_vendors(c, at))
    assert (found.alerts, found.exit_status) == (1, 1)
    assert last(engine) == {"vendors": LastCheck(at, 3, 1)}
    assert write(engine, lambda c: checks.check_vendors(c, T0 + 3 * DAY_MS)).alerts == 0, (
        "the last two days alert nobody"
    )
    assert last(engine) == {"vendors": LastCheck(at, 3, 1)}, "an older one replaces no newer one"


@pytest.mark.both_databases
def test_check_commands_record_results(guarded: Guarded, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fleet = guarded.fleet
    billed(fleet, 9, 9)
    url = fleet.engine.url.render_as_string(hide_password=False)
    line = ["--database-url", url, "--at", "2026-01-10", "--json"]

    def asked(*words: str) -> tuple[int, dict[str, object]]:
        capfd.readouterr()
        status = drawdown([*line, *words])
        out = capfd.readouterr().out
        return status, json.loads(out) if out else {}

    assert asked("vendor", "drift")[0] == asked("guard", "reconcile", "--dry-run")[0] == 1
    assert last(fleet.engine) == {}
    assert asked("vendor", "drift", "--keep", "--from", "2026-01-01")[0] == 2
    assert asked("vendor", "drift", "--keep", "--tolerance", "5")[1]["alerts"] == 1
    status, found = asked("guard", "reconcile", "--since", "2026-01-01")
    assert (status, found["exit_status"], found["corrected"], found["above_tolerance"]) == (1, 1, 1, 1)
    assert {name: (one.off, one.alerts) for name, one in last(fleet.engine).items()} == {
        "guard": (1, 1), "vendors": (2, 1),
    }  # fmt: skip
    assert asked("guard", "reconcile")[0] == 0
