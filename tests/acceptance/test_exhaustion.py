"""Credit runs out: how long after it the cells had stopped, with a watch and without, side by side.

A fixed share of it runs here; `DRAWDOWN_TEST_WHOLE=1` runs the whole: 2,000 organisations on 50 cells.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drawdown.providers.autumn import BALANCE_LAG_MS
from drawdown.schema.database import read
from drawdown.worker.verdict.refresh_requests import SECOND_READ_MS
from drawdown.worker.verify.verify import verify
from tests.acceptance.exhaustion import Exhaustion
from tests.acceptance.exhaustion_fleet import Plan, Result
from tests.acceptance.exhaustion_hooks import halted_after_webhooks
from tests.sqlite_databases import fresh
from tests.whole import share

ORGS, CELLS, MINUTES = share((16, 2, 11), whole=(2000, 50, 45))
SUDDEN = share((4, 2, 3), whole=(400, 50, 20))
STALE = share((12, 2, 11), whole=(400, 50, 20))
HOOKED = share(4, whole=300)
SEED = int(os.environ.get("DRAWDOWN_TEST_EXHAUSTION_SEED", "1"))


def measured(folder: Path, *, watched: bool, sudden: bool = False, autumn: bool = False) -> Result:
    """Run the fleet on a database of its own; every invariant holds at its end."""
    engine = fresh(folder / f"watched-{watched}-{sudden}-{autumn}.db")
    orgs, cells, minutes = SUDDEN if sudden else (ORGS, CELLS, MINUTES)
    result = Exhaustion(engine, Plan(orgs, cells, minutes, SEED, watched, sudden, autumn)).run()
    kind = f"{'sudden start, ' if sudden else ''}{'Autumn, ' if autumn else ''}"
    print(f"\n{kind}{'watched' if watched else 'not watched'}: {result.line()}")
    assert read(engine, verify).breaches == []
    engine.dispose()
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exhaustion")


def test_watch_halts_cells_within_60_s_of_last_credit(folder: Path) -> None:
    found = measured(folder, watched=True)
    assert found.halts > ORGS // 4
    assert found.paying_halted == []
    assert found.flaps == 0
    assert found.spent_running == []
    assert found.percentile(0.01) >= -10
    assert found.percentile(0.99) <= 60


def test_halt_without_watch_takes_over_2_minutes(folder: Path) -> None:
    """What the watch is measured against: else the fleet would prove nothing."""
    found = measured(folder, watched=False)
    assert found.percentile(0.5) > 120
    assert found.flaps == 0


@pytest.mark.parametrize("autumn", [False, True])
def test_watch_halts_sudden_use_within_15_s_of_last_credit(folder: Path, autumn: bool) -> None:
    """Ten sandboxes of 64 GB use one credit in 15.6 s: no sample comes before it is gone."""
    found = measured(folder, watched=True, sudden=True, autumn=autumn)
    assert found.halts >= SUDDEN[0]
    assert found.paying_halted == []
    assert found.flaps == 0
    assert found.spent_running == []
    assert found.percentile(0.01) >= -10
    assert found.percentile(0.99) <= 15


def test_stale_balance_reads_do_not_resume_halted_org(folder: Path) -> None:
    """A read of a balance before its last push resumes nobody. Who pays as its credit ends may be read too late."""
    engine = fresh(folder / "stale.db")
    result = Exhaustion(engine, Plan(*STALE, SEED, watched=True, sudden=True, autumn=True, stale=True)).run()
    print(f"\nsudden start, Autumn, stale reads: {result.line()}")
    assert read(engine, verify).breaches == []
    engine.dispose()
    assert result.halts >= STALE[0]
    assert result.paying_halted == []
    assert result.flaps == 0
    assert result.spent_running == []
    assert result.percentile(0.99) <= BALANCE_LAG_MS / 1000


@pytest.mark.parametrize("autumn", [False, True])
def test_webhook_for_zero_credit_halts_within_1_s(folder: Path, autumn: bool) -> None:
    found = halted_after_webhooks(folder, HOOKED, stale=False, autumn=autumn)
    print(f"\n{'Autumn, ' if autumn else ''}webhook, not watched: {found.times(2)}")
    assert found.halts == HOOKED
    assert found.percentile(0.99) <= 1


@pytest.mark.parametrize("autumn", [False, True])
def test_webhook_with_stale_first_read_halts_at_second_read(folder: Path, autumn: bool) -> None:
    found = halted_after_webhooks(folder, HOOKED, stale=True, autumn=autumn)
    print(f"\n{'Autumn, ' if autumn else ''}stale first read, not watched: {found.times(2)}")
    assert found.halts == HOOKED
    assert found.percentile(0.01) > SECOND_READ_MS / 1000, "else no first read was stale"
    assert found.percentile(0.99) <= SECOND_READ_MS / 1000 + 1
