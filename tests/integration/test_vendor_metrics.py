"""What uses of the guard's metrics should cost at vendors: what is free for customers is not free there, and what the
seal bills as well is estimated once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.worker.features.actions import end_feature, map_event, map_size
from drawdown.worker.provider.vendors import LEAST_MICRO, TOLERANCE_PPM, Units, drift, set_units
from drawdown.worker.sources.events.store import take
from tests.integration.guarding import Guarded
from tests.integration.test_vendors import bill
from tests.world import T0


@pytest.fixture
def guarded(engine: sa.Engine) -> Guarded:
    """Acme is billed, and has used 5 of `look`, which has no price: it was counted, and told of by an event."""
    made = Guarded(engine)
    made.fleet.assign("acme", from_ms=T0)
    made.limit("look", 100)
    made.fleet.clock.at_ms = T0 + MINUTE_MS
    assert made.consume("look", 5).decision == "allow"
    event = UsageEvent("app", "e", "look", "acme", 5, T0 + MINUTE_MS)
    made.write(lambda c: take(c, [event], T0 + MINUTE_MS))
    return made


def costing(guarded: Guarded, feature: str, service: str = "api", currency: str = "USD") -> None:
    """A dollar for each."""
    units = Units("cloud", service, "u", 1, 1_000_000, 1, currency)
    write(guarded.fleet.engine, lambda c: set_units(c, feature, units, T0, guarded.fleet.by, new=True))


def sealed(guarded: Guarded) -> None:
    guarded.fleet.tick(T0 + 3 * WINDOW_MS)


def estimated(guarded: Guarded) -> dict[str, int | None]:
    """In whole dollars, by service."""
    bounds = (T0 + 9 * DAY_MS, TOLERANCE_PPM, LEAST_MICRO)
    found = read(guarded.fleet.engine, lambda c: drift(c, T0, T0 + DAY_MS, *bounds))
    return {one.service: None if one.estimated_micro is None else one.estimated_micro // MICRO for one in found}


def meter(guarded: Guarded, feature: str) -> None:
    guarded.write(lambda c: map_event(c, "look", feature, guarded.fleet.by, from_ms=T0, confirmed=True))


def test_vendor_cost_of_free_metric_is_estimated(guarded: Guarded) -> None:
    """Nothing bills it; a bill as high as the use is no drift, two days running."""
    costing(guarded, "look")
    guarded.fleet.clock.at_ms = T0 + DAY_MS
    guarded.consume("look", 5)
    bill(guarded.fleet, 5, 5, service="api")
    bounds = (T0 + 9 * DAY_MS, TOLERANCE_PPM, LEAST_MICRO)
    found = read(guarded.fleet.engine, lambda c: drift(c, T0, T0 + 2 * DAY_MS, *bounds))
    assert [(one.estimated_micro, one.is_off, one.alerts) for one in found] == [(5 * MICRO, False, False)] * 2


@pytest.mark.parametrize("feature", ["look", "looks"])
def test_vendor_cost_of_metric_billed_by_seal_is_estimated_once(guarded: Guarded, feature: str) -> None:
    """By what was sealed, whatever the feature is called, where the service has that feature."""
    meter(guarded, feature)
    sealed(guarded)
    assert guarded.fleet.one("SELECT SUM(sealed_qty) FROM pushes") == 5
    costing(guarded, "look")
    assert estimated(guarded) == {"api": 5}
    costing(guarded, feature)
    assert estimated(guarded) == {"api": 5}
    costing(guarded, "look", "tokens")
    assert estimated(guarded) == {"api": 5, "tokens": 5}, "each use costs something at both"


def test_vendor_cost_in_other_currency_is_separate(guarded: Guarded) -> None:
    meter(guarded, "looks")
    sealed(guarded)
    costing(guarded, "look", "eur", "EUR")
    costing(guarded, "looks", "usd", "USD")
    assert estimated(guarded) == {"eur": 5, "usd": 5}


@pytest.mark.both_databases
def test_vendor_cost_of_metric_counting_size_feature_is_estimated_once(guarded: Guarded) -> None:
    """Until the feature ends: what is used later the seal bills no more."""
    fleet = guarded.fleet
    guarded.metric("look", counts="gpu")
    guarded.write(lambda c: map_size(c, "gpu", fleet.by, kind="exact", memory_mb=7, unit="s", from_ms=T0 + WINDOW_MS))
    fleet.sample("acme", T0 + WINDOW_MS, 3, memory_mb=7)
    fleet.clock.at_ms = T0 + WINDOW_MS
    guarded.consume("look", 3)
    guarded.write(lambda c: end_feature(c, "gpu", fleet.by, from_ms=T0 + 2 * WINDOW_MS))
    fleet.clock.at_ms = T0 + 2 * WINDOW_MS
    guarded.consume("look", 4)
    fleet.tick(T0 + 5 * WINDOW_MS)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE feature = 'gpu'") == 3
    costing(guarded, "look")
    assert estimated(guarded) == {"api": 5 + 3 + 4}
    costing(guarded, "gpu")
    assert estimated(guarded) == {"api": 5 + 3 + 4}, "the 3 that were sealed, and what nothing sealed"


def test_vendor_set_accepts_known_metric_and_suggests_for_unknown(guarded: Guarded) -> None:
    """Where no feature is called so; a slip is told the nearest, of both."""
    units = Units("cloud", "api", "u", 1, 1_000_000, 1, "USD")
    fleet = guarded.fleet
    with pytest.raises(UnknownId, match="did you mean look"):
        guarded.write(lambda c: set_units(c, "lok", units, T0, fleet.by, new=False))
    guarded.write(lambda c: set_units(c, "look", units, T0, fleet.by, new=False))
    assert estimated(guarded) == {"api": 5}


def test_vendor_cost_excludes_reserved_and_released_uses(guarded: Guarded) -> None:
    costing(guarded, "look")
    guarded.reserve("look", 7)
    guarded.reserve("look", 9, key="gone")
    guarded.release("gone", incurred=2)
    assert estimated(guarded) == {"api": 5 + 2}
