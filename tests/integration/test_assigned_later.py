"""An assignment that begins later changes nothing of who bills now."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.commands import assignments
from tests.fake_provider import FakeProvider, capabilities
from tests.world import Fleet

READ = "SELECT balance_micro, balance_read_ms FROM orgs WHERE org_id = 'acme'"


def test_the_balance_that_was_read_stays_until_another_bills(engine: sa.Engine) -> None:
    fleet = Fleet(engine, extra={"fake": FakeProvider(capabilities())})
    fleet.assign("acme")
    fleet.tick_windows(2)
    ((balance, read_ms),) = fleet.rows(READ)
    assert balance is not None and read_ms is not None

    def flip(from_ms: int) -> None:
        write(fleet.engine, lambda c: assignments.assign(c, ["acme"], "fake", fleet.by, from_ms=from_ms))

    later = fleet.clock.at_ms + 10 * WINDOW_MS
    flip(later)
    assert fleet.rows(READ) == [(balance, read_ms)]
    write(fleet.engine, lambda c: assignments.cancel(c, "acme", fleet.by))
    assert fleet.rows(READ) == [(balance, read_ms)]
    flip(later)
    fleet.clock.at_ms = later
    fleet.tick()
    assert fleet.one("SELECT billing_provider FROM orgs WHERE org_id = 'acme'") == "fake"
    assert fleet.rows(READ) != [(balance, read_ms)], "another's customer has another balance"
