"""Events of several organisations by the same ids: found, withdrawn, pruned and put in later, each as its own."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.sources.events.store import EventResult, take
from drawdown.worker.sources.events.types import Bringer
from drawdown.worker.usage import backfills
from drawdown.worker.usage.intake import show_event
from drawdown.worker.usage.prune import prune
from drawdown.worker.usage.withdrawals import withdraw_events
from tests.integration.telling_events import billed_by_units, clean, event, statuses, told
from tests.integration.test_events import at_once
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.clock.at_ms = T0 + 10
    billed_by_units(made, "acme", "globex")
    return made


def own(fleet: Fleet, *events: UsageEvent) -> list[tuple[str, str | None]]:
    """By a key of their organisation's."""
    now = fleet.clock.at_ms
    return statuses(write(fleet.engine, lambda c: take(c, events, now, own=True, types_by=Bringer(events[0].org_id))))


def of(org: str, event_id: str = "a", quantity: int = 3, **more: Any) -> UsageEvent:
    return event(event_id, quantity, org_id=org, **more)


IN = ("accepted", None)
GONE = ("invalid", "withdrawn")


def test_each_org_is_billed_for_its_own_events_only(fleet: Fleet) -> None:
    assert [own(fleet, of(org, quantity=number)) for org, number in (("acme", 3), ("globex", 4))] == [[IN], [IN]]
    engine, by = fleet.engine, fleet.by
    with pytest.raises(UsageError, match=r"several organisations, acme, globex\. Name the organisation with --org"):
        read(engine, lambda c: show_event(c, "app", "a"))
    assert read(engine, lambda c: show_event(c, "app", "a", "globex")).quantity == 4
    with pytest.raises(UnknownId):
        read(engine, lambda c: show_event(c, "app", "a", "wayne"))
    fleet.tick(T0 + 2 * WINDOW_MS)
    with pytest.raises(UsageError, match="--org"):
        write(engine, lambda c: withdraw_events(c, "app", ["a"], by))
    write(engine, lambda c: withdraw_events(c, "app", ["a"], by, "acme"))
    fleet.tick(T0 + 3 * WINDOW_MS)
    assert own(fleet, of("acme")) == [("duplicate", "withdrawn")] == statuses(told(fleet, of("acme")))
    assert own(fleet, of("globex", quantity=4)) == [("duplicate", None)]
    charged = "SELECT from_account, SUM(CASE WHEN kind = 'usage' THEN amount_micro ELSE 0 END) FROM ledger_entries "
    sums = {row[0]: row[1] for row in fleet.rows(charged + "WHERE feature = 'render' GROUP BY 1")}
    assert (sums.get("wallet:globex"), sums.get("wallet:acme")) == (8, 0), "and acme's was given back"
    clean(fleet)


@pytest.mark.parametrize("first", ["own", "claimed"])
def test_withdrawn_event_id_is_refused_but_accepted_for_other_org(fleet: Fleet, first: str) -> None:
    assert (own(fleet, of("acme")) if first == "own" else statuses(told(fleet, of("acme")))) == [IN]
    fleet.tick(T0 + 2 * WINDOW_MS)
    write(fleet.engine, lambda c: withdraw_events(c, "app", ["a"], fleet.by))
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
    prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by)
    assert fleet.rows("SELECT * FROM usage_events") == []
    now = fleet.clock.at_ms
    again = of("acme", occurred_ms=now)
    assert own(fleet, again) == [GONE] == statuses(told(fleet, again))
    assert own(fleet, of("globex", occurred_ms=now)) == [IN]
    claimed = statuses(told(fleet, of("wayne", occurred_ms=now)))
    assert claimed == ([("pending", "unassigned")] if first == "own" else [GONE])
    fleet.tick_windows(2)
    clean(fleet)


def _open(fleet: Fleet, name: str, org: str, *events: UsageEvent, start: int = T0) -> list[tuple[str, str | None]]:
    by, now = fleet.by, fleet.clock.at_ms
    write(fleet.engine, lambda c: backfills.open_backfill(c, name, org, start, start + WINDOW_MS, by))
    return statuses(write(fleet.engine, lambda c: backfills.stage(c, name, events, now)))


def _closed(fleet: Fleet, name: str) -> dict[str, int]:
    shown = read(fleet.engine, lambda c: backfills.diff(c, name))
    write(fleet.engine, lambda c: backfills.close(c, name, shown.hash, fleet.by))
    return shown.counts


def test_backfill_with_ids_of_other_org_affects_own_org_only(fleet: Fleet) -> None:
    fleet.clock.at_ms = T0 + WINDOW_MS
    assert own(fleet, of("acme", "a"), of("acme", "b")) == [IN, IN]
    assert statuses(told(fleet, of("acme", "c"), of("globex", "d"))) == [IN, IN]
    staged = [of("acme", one, 3 + (one == "b")) for one in ("a", "b", "c", "d", "e")]
    assert _open(fleet, "june", "acme", *staged) == [IN] * 5
    assert _closed(fleet, "june") == {"duplicate": 2, "conflict": 1, "new": 2}
    assert _open(fleet, "later", "globex", of("globex", "a"), of("globex", "e")) == [IN] * 2
    assert _closed(fleet, "later") == {"new": 2}
    assert statuses(told(fleet, of("acme", "e"), of("globex", "e"))) == [("duplicate", None)] * 2
    rows = fleet.rows("SELECT org_id, event_id FROM usage_events ORDER BY 1, 2")
    assert rows == [("acme", one) for one in "abcde"] + [("globex", one) for one in "ade"]
    clean(fleet)
    done = False
    while not done:
        _, done = write(fleet.engine, lambda c: backfills.revert(c, "june", fleet.by))
    assert own(fleet, of("acme", "e")) == [("duplicate", "withdrawn")]
    assert own(fleet, of("globex", "e")) == [("duplicate", None)]
    fleet.tick_windows(2)
    clean(fleet)


def test_withdrawn_and_pruned_event_is_not_staged(fleet: Fleet) -> None:
    told(fleet, of("acme"))
    fleet.tick(T0 + 2 * WINDOW_MS)
    write(fleet.engine, lambda c: withdraw_events(c, "app", ["a"], fleet.by))
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
    prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by)
    start = T0 + 30 * DAY_MS
    later = [of("acme", one, occurred_ms=start + 1) for one in ("a", "b")]
    assert _open(fleet, "june", "acme", *later, start=start) == [GONE, IN]
    assert _closed(fleet, "june") == {"new": 1}
    clean(fleet)


def test_bound_and_unbound_keys_sending_the_same_do_not_deadlock(postgres: sa.Engine) -> None:
    fleet = Fleet(postgres)
    fleet.clock.at_ms = T0 + 10
    billed_by_units(fleet, "acme", "globex")
    for number in range(4):
        events = [of("acme", f"{number}-{i}", i) for i in range(120)]
        others = [of("globex", f"{number}-{i}", i + 1) for i in range(120)]

        def work(connection: sa.Connection, batch: list[UsageEvent], *, own: bool) -> list[EventResult]:
            return take(connection, batch, T0 + 10, own=own, types_by=Bringer(batch[0].org_id if own else None))

        ways = [(events, True), (events[::-1], False), (others, True), (others[::-1], False)]
        found = at_once(fleet.engine, [partial(work, batch=batch, own=mine) for batch, mine in ways])
        acme, claimed, globex, _ = ([one.status for one in answers] for answers in found)
        for mine, claim in zip(acme, claimed[::-1], strict=True):
            assert {mine, claim} <= {"accepted", "duplicate", "conflict"}
            assert "accepted" in (mine, claim) and mine in ("accepted", "duplicate")
        assert set(globex) <= {"accepted", "duplicate"}
    assert fleet.one("SELECT COUNT(*) FROM usage_events") == 960 == fleet.one("SELECT COUNT(*) FROM usage_samples")
    clean(fleet)
