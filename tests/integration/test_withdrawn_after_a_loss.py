"""Withdrawals in several transactions, after history was lost (rule R1): what was sealed since goes by one command."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.batches import actions as batch_actions
from drawdown.worker.batches import take as withdrawing
from drawdown.worker.engine import runner
from drawdown.worker.history.recover import recover
from drawdown.worker.usage import backfills
from drawdown.worker.usage.prune import prune, raise_floors
from drawdown.worker.verify.verify import verify
from tests.integration.telling_events import billed_by_units, event
from tests.world import T0, Fleet

Said = Callable[..., tuple[int, str]]


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.clock.at_ms = T0 + 10
    billed_by_units(made, "acme")
    made.tick(T0 + DAY_MS)
    return made


@pytest.fixture
def said(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> Said:
    def asked(*words: str) -> tuple[int, str]:
        url = fleet.engine.url.render_as_string(hide_password=False)
        status = drawdown(["--database-url", url, *words])
        told = capfd.readouterr()
        return status, told.out + told.err

    return asked


def closed_backfill(fleet: Fleet, count: int) -> None:
    write(fleet.engine, lambda c: backfills.open_backfill(c, "june", "acme", T0, T0 + WINDOW_MS, fleet.by))
    events = [event(f"e-{number}", 1) for number in range(count)]
    write(fleet.engine, lambda c: backfills.stage(c, "june", events, fleet.clock.at_ms))
    shown = read(fleet.engine, lambda c: backfills.diff(c, "june")).hash
    write(fleet.engine, lambda c: backfills.close(c, "june", shown, fleet.by))


def taken_batch(said: Said, tmp_path: Path, count: int) -> str:
    path = tmp_path / "u.csv"
    with path.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(("org_id", "ts", "memory_mb", "interval_s"))
        rows.writerows(("acme", "2026-01-01T00:01:00Z", 1024 << at, 60) for at in range(count))
    status, told = said("batch", "take", str(path))
    assert status == 0, told
    return told.split("batch ")[-1].strip()


def lose(fleet: Fleet) -> None:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    assert runner.run(recover(fleet.context(), fleet.by, restored=True), world).found


def withdrawn(fleet: Fleet) -> int:
    return int(str(fleet.one("SELECT COUNT(*) FROM withdrawals")))


def test_backfill_revert_after_loss_withdraws_all_events_after_tick(
    fleet: Fleet, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A portion makes its window due for a seal, which is no reason to refuse the next one."""
    monkeypatch.setattr(backfills, "REVERTED_AT_ONCE", 2)
    closed_backfill(fleet, 5)
    fleet.tick_windows(1)
    lose(fleet)
    status, told = said("backfill", "revert", "june")
    assert (status, withdrawn(fleet)) == (1, 0), told
    assert "0 of 5" in told and "after the next tick" in told
    fleet.tick_windows(1)
    status, told = said("backfill", "revert", "june")
    assert (status, withdrawn(fleet)) == (0, 5), told
    fleet.tick_windows(1)
    assert read(fleet.engine, verify).breaches == []


def test_batch_withdraw_after_loss_withdraws_all_samples_after_tick(
    fleet: Fleet, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_actions, "withdraw_some", partial(withdrawing.withdraw_some, at_most=2))
    batch = taken_batch(said, tmp_path, 5)
    fleet.tick_windows(1)
    lose(fleet)
    status, told = said("batch", "withdraw", batch)
    assert (status, withdrawn(fleet)) == (1, 0), told
    fleet.tick_windows(1)
    status, told = said("batch", "withdraw", batch)
    assert (status, withdrawn(fleet)) == (0, 5), told
    fleet.tick_windows(1)
    assert read(fleet.engine, verify).breaches == []


@pytest.mark.parametrize("deleted", [False, True])
def test_backfill_revert_below_floor_is_refused_before_first_portion(
    fleet: Fleet, said: Said, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    monkeypatch.setattr(backfills, "REVERTED_AT_ONCE", 2)
    closed_backfill(fleet, 5)
    fleet.tick(T0 + 40 * DAY_MS)
    if deleted:
        prune(partial(write, fleet.engine), T0 + WINDOW_MS, fleet.by)
    else:
        write(fleet.engine, lambda c: raise_floors(c, before=T0 + WINDOW_MS, by=fleet.by))
    status, told = said("backfill", "revert", "june")
    assert (status, withdrawn(fleet)) == (1, 0), told
    assert "(events: 5). 0 of 5 events withdrawn" in told
