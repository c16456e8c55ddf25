"""Credit runs out: how long after it the cells had stopped, with a watch and without, side by side.

A fixed share of it runs here; `DRAWDOWN_TEST_WHOLE=1` runs the whole: 2,000 organisations on 50 cells.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drawdown.schema.database import connect, read
from drawdown.schema.migrate import upgrade
from drawdown.worker.verify.verify import verify
from tests.acceptance.exhaustion import Exhaustion
from tests.acceptance.exhaustion_fleet import Plan, Result
from tests.fresh import migrated
from tests.whole import share

ORGS, CELLS, MINUTES = share((36, 4, 20), whole=(2000, 50, 45))
SEED = int(os.environ.get("DRAWDOWN_TEST_EXHAUSTION_SEED", "1"))


def measured(folder: Path, *, watched: bool) -> Result:
    """Run the fleet on a database of its own; every invariant holds at its end."""
    engine = connect(migrated(f"sqlite:///{folder}/watched-{watched}.db"))
    upgrade(engine)
    result = Exhaustion(engine, Plan(ORGS, CELLS, MINUTES, SEED, watched)).run()
    print(f"\n{'watched' if watched else 'not watched'}: {result.line()}")
    assert read(engine, verify).breaches == []
    engine.dispose()
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exhaustion")


def test_with_a_watch_cells_stop_within_a_minute_of_the_last_credit(folder: Path) -> None:
    found = measured(folder, watched=True)
    assert found.halts > ORGS // 4
    assert found.paying_halted == []
    assert found.flaps == 0
    assert found.spent_running == []
    assert found.percentile(0.01) >= -10
    assert found.percentile(0.99) <= 60


def test_without_one_it_takes_minutes(folder: Path) -> None:
    """What the watch is measured against: else the fleet would prove nothing."""
    found = measured(folder, watched=False)
    assert found.percentile(0.5) > 120
    assert found.flaps == 0
