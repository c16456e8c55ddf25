"""What is left over: samples of no time, and less than a whole unit."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS
from drawdown.worker.status.status import org_status, status
from drawdown.worker.usage.prune import prune
from drawdown.worker.verify.verify import verify
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return Fleet(engine)


@pytest.mark.both_databases
def test_samples_of_zero_seconds_are_not_pending(fleet: Fleet) -> None:
    """Without a feature or a biller they wait in the books, and hold up neither the verdict nor a floor."""
    fleet.assign("acme", from_ms=T0)
    fleet.sample("acme", T0 + 1, 0, 777)
    fleet.sample("nobody", T0 + 1, 0)
    report = fleet.tick_windows(2)
    found = read(fleet.engine, lambda c: status(c, fleet.clock.now_ms()))
    assert (report.left.pending_s, report.exit_status, found.headline.verdict, found.standing.pending) == (
        {},
        0,
        "settled",
        [],
    )
    assert read(fleet.engine, lambda c: org_status(c, "acme", fleet.clock.now_ms())).pending == []
    fleet.sample("nobody", T0 + DAY_MS, 1)
    fleet.tick(T0 + 60 * DAY_MS, accept_clock=True)
    done = prune(partial(write, fleet.engine), T0 + 2 * DAY_MS, fleet.by)
    assert (done.samples, done.held_back) == (2, 1)
    assert fleet.rows("SELECT org_id, seconds FROM pending_usage") == [("nobody", 1)]
    assert read(fleet.engine, verify).breaches == []
