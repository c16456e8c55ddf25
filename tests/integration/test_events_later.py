"""Usage events of the past: replayed, and compared with what a provider says it charged, as all usage is."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.schema.units import DAY_MS, WINDOW_MS
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.reconciling import SHOWN, TOTALS, compare
from tests.integration.reconciling import told as said
from tests.integration.telling_events import clean, event, mapped, told
from tests.integration.test_corrections import do_replay
from tests.world import T0, Fleet


def at_another_provider(engine: sa.Engine) -> tuple[Fleet, FakeProvider]:
    """A day's event is billed at a provider that tells what it charged in all."""
    provider = FakeProvider(capabilities(**TOTALS))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake", from_ms=T0)
    mapped(fleet)
    fleet.clock.at_ms = T0 + 10
    told(fleet, event("a", 3), event("b", 4))
    fleet.tick(T0 + 3 * WINDOW_MS)
    return fleet, provider


def charged(provider: FakeProvider) -> int:
    return sum(push.quantity for push in provider.charged.values())


@pytest.mark.both_databases
def test_replay_of_events_bills_only_owed_usage(engine: sa.Engine) -> None:
    fleet, provider = at_another_provider(engine)
    for _ in range(2):
        assert do_replay(fleet, T0, T0 + WINDOW_MS).quantity == 0
        assert charged(provider) == 7
    told(fleet, event("late", 5))
    assert do_replay(fleet, T0, T0 + WINDOW_MS, dry_run=True).quantity == 5
    assert charged(provider) == 7
    assert do_replay(fleet, T0, T0 + WINDOW_MS).quantity == 5
    fleet.tick_windows(1)
    assert charged(provider) == 12
    told(fleet, event("odd", 9, event_type="page.odd"))
    fleet.sample("acme", T0 + 2, 60, memory_mb=77)
    fleet.tick_windows(1)
    left = [(*vars(one).values(),) for one in do_replay(fleet, T0, T0 + WINDOW_MS).left_out]
    assert sorted(map(str, left)) == ["('pending: no_mapping', 's', 1, 60)", "('pending: no_mapping', 'units', 1, 9)"]
    clean(fleet)


def test_reconcile_events_lost_by_provider_are_reported_by_feature(engine: sa.Engine) -> None:
    fleet, provider = at_another_provider(engine)
    fleet.clock.at_ms += SHOWN
    assert said(compare(fleet)) == []
    provider.charged.clear()
    found = compare(fleet, from_ms=T0, to_ms=T0 + DAY_MS)
    assert [(one.feature, one.ours, one.theirs) for one in found.differing] == [("render", 7, 0)]
    clean(fleet)
