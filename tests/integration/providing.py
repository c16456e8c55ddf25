"""What tests of providers share: a fleet at one fake provider, and what became of its pushes."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

KEY = f"usage:acme:{T0}:compute_1gb"


LAG = MINUTE_MS


ASKED: dict[str, object] = {
    "key_retention_ms": DAY_MS,
    "duplicate_proves_delivery": False,
    "lookup_lag_ms": LAG,
    "applied_within_ms": DAY_MS,
    "totals_lag_ms": LAG,
}


def fleet_of(engine: sa.Engine, **changes: object) -> tuple[Fleet, FakeProvider]:
    """One organisation at a provider of these capabilities, with a minute used in the first window."""
    provider = FakeProvider(capabilities(**changes))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    return fleet, provider


def states(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT revision, sealed_qty, sent_qty, state FROM pushes ORDER BY window_ms, revision")


def settle(fleet: Fleet, ticks: int = 3) -> None:
    for _ in range(ticks):
        fleet.tick(fleet.clock.at_ms + LAG)


def clean(fleet: Fleet) -> None:
    assert read(fleet.engine, verify).breaches == []
