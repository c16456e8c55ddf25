"""drawdown reconcile on the command line, over real sockets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.units import SECOND_MS, WINDOW_MS
from drawdown.worker.orgs.assignments import assign
from tests.acceptance.commands import drawdown, one_clear_line
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import autumn_lines, serving_in_thread
from tests.integration.reconciling import FEATURE
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet


def _served(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path}/drawdown.db"
    engine = fresh(tmp_path / "drawdown.db")
    fleet = Fleet(engine)
    emulator = AutumnEmulator(lists_per_s=10**9)
    emulator.account.add_feature(FEATURE)
    emulator.account.add_customer("acme", T0)
    emulator.account.grant("acme", FEATURE, 10**6, T0)
    write(engine, lambda c: assign(c, ["acme"], "autumn", fleet.by))
    fleet.sample("acme", T0 + 1)
    engine.dispose()
    return url, emulator


def test_reconcile_command_waits_for_lag_and_corrects_lost_push(tmp_path: Path) -> None:
    url, emulator = _served(tmp_path)
    clock = FixedClock(T0 + 3 * WINDOW_MS)
    with serving_in_thread(emulator, clock) as address:
        env = dict(line.split("=", 1) for line in autumn_lines(emulator, address))

        def run(*arguments: str) -> Any:
            return drawdown(url, "--json", *arguments, at=str(clock.at_ms), env=env)

        emulator.faults.rates = {"accepted_then_lost": 1.0}
        assert run("tick").json["tick"]["accepted"] == 1
        emulator.faults.rates = {}
        assert emulator.charged("acme", FEATURE, T0) == 0
        waits = run("reconcile")
        assert (waits.status, waits.json["reconcile"]["waiting"]) == (0, 1), "Autumn's lists lag"

        clock.at_ms += 4 * WINDOW_MS
        differs = run("reconcile", "--from", "2026-01-01", "--to", "2026-01-02")
        assert differs.status == differs.json["reconcile"]["exit_status"] == 1
        (line,) = differs.json["reconcile"]["differing"]
        assert (line["org_id"], line["ours"], line["theirs"], line["verdict"]) == ("acme", 60, 0, "short")
        for people in ("acme", "stripe: not compared: its API key is missing"):
            assert people in drawdown(url, "reconcile", at=str(clock.at_ms), env=env).out
        silent = run("reconcile", "--threshold", "100")
        assert (silent.status, silent.json["reconcile"]["differing"]) == (0, [])

        corrected = run("reconcile", "acme", "--provider", "autumn", "--correct", "--actor", "me", "--reason", "lost")
        assert (corrected.status, corrected.json["reconcile"]["differing"][0]["corrected"]) == (75, 60)
        clock.at_ms += WINDOW_MS
        assert run("tick").json["tick"]["accepted"] == 1
        clock.at_ms += 4 * WINDOW_MS
        for _ in range(2):
            again = run("reconcile", "--correct")
            assert (again.status, again.json["reconcile"]["compared"]) == (0, 1)
        assert emulator.charged("acme", FEATURE, T0) == 60
        assert run("verify").json["breaches"] == []

        emulator.balance_store, emulator.event_store = "down", "off"
        unread = run("reconcile")
        assert (unread.status, unread.json["reconcile"]["unread"]) == (75, 1), "events; a balance waits for them"


def test_tick_command_after_lookup_pushes_and_projects(tmp_path: Path) -> None:
    """As a command, with its progress counted."""
    url, emulator = _served(tmp_path)
    clock = FixedClock(T0 + 3 * WINDOW_MS)
    with serving_in_thread(emulator, clock) as address:
        env = dict(line.split("=", 1) for line in autumn_lines(emulator, address))
        emulator.faults.rates = {"answer_lost": 1.0}
        assert drawdown(url, "--json", "tick", at=str(clock.at_ms), env=env).status == 75
        emulator.faults.rates = {}
        clock.at_ms += 60 * SECOND_MS
        tick = drawdown(url, "--json", "tick", at=str(clock.at_ms), env=env).json["tick"]
        assert (tick["looked_up"], tick["accepted"], tick["failures"]) == (1, 1, [])
        assert (tick["left"]["projections_due"], tick["exit_status"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--from", "2025-12-31T01:00:00Z"], 2, "must be days"),
        (["--from", "2025-12-30", "--to", "2025-12-30"], 2, "the range is empty"),
        (["--from", "2025-12-31", "--to", "2025-12-30"], 2, "ends before it begins"),
        (["--to", "soon"], 2, "--to"),
        (["--threshold", "-1"], 2, "threshold"),
        (["--threshold", "101"], 2, "threshold"),
        (["--provider", "nobody"], 2, "unknown provider nobody"),
    ],
)
def test_reconcile_invalid_range_threshold_or_provider_is_refused(
    tmp_path: Path, arguments: Sequence[str], status: int, says: str
) -> None:
    url = f"sqlite:///{tmp_path}/drawdown.db"
    fresh(tmp_path / "drawdown.db").dispose()
    assert says in one_clear_line(drawdown(url, "reconcile", *arguments, at=str(T0)), status)


def test_reconcile_without_database_suggests_init(tmp_path: Path) -> None:
    said = one_clear_line(drawdown(f"sqlite:///{tmp_path}/none.db", "reconcile", at=str(T0)), 1, 2)
    assert "drawdown init" in said


def test_reconcile_correct_is_queued_once_and_invalid_options_are_refused(tmp_path: Path) -> None:
    url, _ = _served(tmp_path)
    day = ("--from", "2026-01-01", "--to", "2026-01-02")

    def run(*arguments: str) -> Any:
        return drawdown(url, "--json", "reconcile", *arguments, "--queue", at=str(T0 + 9 * WINDOW_MS))

    ordered = run("acme", *day, "--correct")
    assert (ordered.status, ordered.json["job"]) == (0, 1)
    assert run("acme", *day, "--correct").status == 1, "the same job is already queued"
    for nonsense in ((*day,), ("acmee", "--correct"), ("--correct", "--threshold", "1"), ("--kept",)):
        assert run(*nonsense).status == 2, nonsense
