"""What the guard charges for at once is taken by no other door: an event of its type is told so, and none waits for a
feature that nothing may make, whichever comes first and whatever comes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import write
from drawdown.schema.errors import DatabaseBusy, DrawdownError, Refused
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.worker.batches.take import TakenFile
from drawdown.worker.features.actions import end_feature, map_event
from drawdown.worker.features.lists import unmapped_events
from drawdown.worker.guard.terms import Change, set_metric
from drawdown.worker.orgs import double_billing
from drawdown.worker.seal.stops import stop_org
from drawdown.worker.sources.events import store
from drawdown.worker.usage import backfills
from tests.integration.beside import beside
from tests.integration.guarding import Guarded
from tests.integration.telling_events import RENDER, event, statuses, told, withdrawn
from tests.integration.test_batches import taken, written
from tests.integration.test_locks import over_or_blocked
from tests.world import T0

AT_ONCE = ("invalid", "charged_at_once")
NOON = T0 + 12 * 12 * WINDOW_MS + 7


@pytest.fixture
def guarded(engine: sa.Engine) -> Iterator[Guarded]:
    made = Guarded(engine)
    made.fleet.clock.at_ms = NOON
    made.fleet.assign("acme", from_ms=T0)
    yield made
    made.prove()


def price(guarded: Guarded, metric: str = RENDER, micro: int = MICRO, **more: str) -> None:
    change = Change(price_micro=micro, phase=3, **more)  # type: ignore[arg-type]
    guarded.write(lambda c: set_metric(c, metric, change, guarded.fleet.by))


def at(guarded: Guarded, event_id: str, quantity: int = 1, ago_ms: int = 0, event_type: str = RENDER) -> UsageEvent:
    return event(event_id, quantity, occurred_ms=guarded.now - ago_ms, event_type=event_type)


def waits(guarded: Guarded) -> list[tuple[str, int, str | None]]:
    return [(one.event_type, one.units, one.metric) for one in guarded.read(unmapped_events)]


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(Refused) as found:
        work()
    return str(found.value)


@pytest.mark.both_databases
def test_event_of_type_charged_at_once_is_refused_with_hint_to_guard(guarded: Guarded) -> None:
    price(guarded, "draw", counts=RENDER)
    fleet = guarded.fleet
    (answer, _, other, again, elsewhere) = answers = told(
        fleet, at(guarded, "a", 3), at(guarded, "b", 3, WINDOW_MS), at(guarded, "c", 4, event_type="page.view"),
        at(guarded, "a", 3), event("d", org_id="nobody", occurred_ms=guarded.now),
    )  # fmt: skip
    assert statuses(answers) == [AT_ONCE, AT_ONCE, ("pending", "unmapped"), AT_ONCE, AT_ONCE]
    assert answer == again == elsewhere
    assert f"events of {RENDER} are not billed or kept" in str(answer.message) and "at once as draw" in str(
        answer.message
    )
    assert "POST /v1/guard/consume" in str(answer.message) and "map-event" not in str(answer.message)
    assert "map-event page.view" in str(other.message)
    assert fleet.rows("SELECT event_id FROM usage_events") == [("c",)]
    report = fleet.tick_windows(2)
    assert report.left.pending_units == {"no_mapping": 4}
    assert waits(guarded) == [("page.view", 4, None)]
    guarded.limit("draw", None)
    assert guarded.consume("draw", 3).charged_micro == 3 * MICRO


def test_event_taken_before_guard_price_stays_billed(guarded: Guarded) -> None:
    fleet = guarded.fleet
    guarded.write(lambda c: map_event(c, RENDER, "render", fleet.by, from_ms=T0, confirmed=True))
    first = at(guarded, "a", 3)
    assert statuses(told(fleet, first)) == [("accepted", None)]
    guarded.write(lambda c: end_feature(c, "render", fleet.by))
    guarded.later(WINDOW_MS)
    price(guarded)
    assert statuses(told(fleet, first, at(guarded, "b"))) == [("duplicate", None), AT_ONCE]
    late = event("c", 5, occurred_ms=first.occurred_ms)
    assert statuses(told(fleet, late)) == [("accepted", None)], "the seal bills that window"
    fleet.tick_windows(3)
    assert fleet.rows("SELECT feature, sealed_qty FROM pushes WHERE state <> 'voided'") == [("render", 8)]


@pytest.mark.parametrize("ticks", [0, 3], ids=["not sealed yet", "pending"])
def test_guard_price_while_usage_awaits_mapping_is_refused(guarded: Guarded, ticks: int) -> None:
    fleet = guarded.fleet
    told(fleet, at(guarded, "a", 3), event("b", 4, org_id="nobody", occurred_ms=guarded.now))
    fleet.tick_windows(ticks)
    for metric, more in ((RENDER, {}), ("draw", {"counts": RENDER})):
        text = refused(lambda metric=metric, more=more: price(guarded, metric, **more))  # type: ignore[misc]
        assert f"usage of {RENDER} by 2 organisations waits for a feature" in text
        assert "2026-01-01T12:00:00Z" in text and f"map-event {RENDER} FEATURE --from 2026-01-01T12:00:00Z" in text
    price(guarded, RENDER, 0)
    assert "waits for a feature" in refused(lambda: price(guarded)), "also of a metric that is there"
    guarded.write(lambda c: map_event(c, RENDER, "render", fleet.by, from_ms=NOON - NOON % WINDOW_MS, confirmed=True))
    guarded.write(lambda c: end_feature(c, "render", fleet.by))
    guarded.later(WINDOW_MS)
    price(guarded)
    fleet.assign("nobody", from_ms=T0)
    fleet.tick_windows(3)
    billed = "SELECT org_id, feature, sealed_qty FROM pushes WHERE state <> 'voided' ORDER BY 1"
    assert fleet.rows(billed) == [("acme", "render", 3), ("nobody", "render", 4)]
    assert waits(guarded) == []


@pytest.mark.parametrize("ticks", [0, 3], ids=["not sealed yet", "pending"])
def test_guard_price_after_pending_usage_is_withdrawn_is_accepted(guarded: Guarded, ticks: int) -> None:
    fleet = guarded.fleet
    told(fleet, at(guarded, "a", 3), at(guarded, "zero", 0))
    fleet.tick_windows(ticks)
    refused(lambda: price(guarded))
    withdrawn(fleet, "a")
    price(guarded)
    fleet.tick_windows(3)
    assert [one for one in waits(guarded) if one[1]] == []


def test_guard_price_counts_usage_of_stopped_org_not_of_unbilled_org(guarded: Guarded) -> None:
    fleet = guarded.fleet
    fleet.assign("free", provider="legacy", from_ms=T0)
    told(fleet, event("f", 5, org_id="free", occurred_ms=guarded.now))
    price(guarded)
    price(guarded, micro=0)
    guarded.later(WINDOW_MS)
    told(fleet, at(guarded, "a", 3))
    stop = partial(stop_org, org_id="acme", reason="a test", now_ms=guarded.now, actor="test")
    assert write(fleet.engine, stop)
    fleet.tick_windows(4)
    assert waits(guarded) == []
    assert "by 1 organisation waits" in refused(lambda: price(guarded))


def test_events_after_guard_price_is_removed_are_pending(guarded: Guarded) -> None:
    """But for the window in which it went, and those before: there it charged."""
    fleet = guarded.fleet
    price(guarded)
    guarded.later(WINDOW_MS + 3)
    price(guarded, micro=0)
    assert statuses(told(fleet, at(guarded, "a"), at(guarded, "b", 1, WINDOW_MS))) == [AT_ONCE] * 2
    guarded.later(WINDOW_MS)
    (answer,) = told(fleet, at(guarded, "c", 6))
    assert (answer.status, answer.code) == ("pending", "unmapped")
    start = guarded.now - guarded.now % WINDOW_MS
    assert "--from 2026-01-01T12:10:00Z" in str(answer.message) and start == T0 + 12 * 12 * WINDOW_MS + 2 * WINDOW_MS
    guarded.write(lambda c: map_event(c, RENDER, "render", fleet.by, from_ms=start, confirmed=True))
    assert statuses(told(fleet, at(guarded, "d"), at(guarded, "e", 1, WINDOW_MS))) == [("accepted", None), AT_ONCE]
    fleet.tick_windows(2)
    assert fleet.rows("SELECT feature, sealed_qty FROM pushes WHERE state <> 'voided'") == [("render", 7)]


def test_pending_usage_of_charged_type_is_listed_with_metric(guarded: Guarded) -> None:
    """A database may hold some from an earlier version; no list advises what is refused."""
    fleet = guarded.fleet
    told(fleet, at(guarded, "a", 3))
    price_of_old(guarded)
    fleet.tick_windows(2)
    assert waits(guarded) == [(RENDER, 3, RENDER)]
    price(guarded, micro=2 * MICRO)
    withdrawn(fleet, "a")
    fleet.tick_windows(1)
    assert [one for one in waits(guarded) if one[1]] == []


def price_of_old(guarded: Guarded) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drawdown.worker.orgs.double_billing.require_nothing_waits", lambda *_args: None)
        price(guarded)


def test_backfill_event_charged_at_once_is_left_out(guarded: Guarded) -> None:
    fleet = guarded.fleet
    start = NOON - NOON % WINDOW_MS
    guarded.later(3 * WINDOW_MS)
    open_ = lambda c: backfills.open_backfill(c, "june", "acme", start, start + 2 * WINDOW_MS, fleet.by)  # noqa: E731
    guarded.write(open_)
    past = [event("a", 3, occurred_ms=start + 1), event("v", 4, occurred_ms=start + 1, event_type="page.view")]
    assert statuses(guarded.write(lambda c: backfills.stage(c, "june", past, guarded.now))) == [("accepted", None)] * 2
    price(guarded)
    more = [event("b", 3, occurred_ms=start + 1)]
    assert statuses(guarded.write(lambda c: backfills.stage(c, "june", more, guarded.now))) == [AT_ONCE]
    found = guarded.read(lambda c: backfills.diff(c, "june"))
    assert found.counts == {"charged_at_once": 1, "new": 1}
    guarded.write(lambda c: backfills.close(c, "june", found.hash, fleet.by))
    assert fleet.rows("SELECT event_id FROM usage_events") == [("v",)]


def test_batch_with_event_type_charged_at_once_is_refused(guarded: Guarded, tmp_path: Path) -> None:
    guarded.later(DAY_MS)
    price(guarded)
    late = guarded.now - guarded.now % WINDOW_MS - WINDOW_MS

    def file(name: str, *types: str) -> Path:
        rows = [{"org_id": "acme", "ts": late, "event_type": kind, "quantity": 7} for kind in types]
        return written(tmp_path / name, rows)

    text = refused(lambda: taken(guarded.fleet, file("u.jsonl", "page.view", RENDER)))
    assert f"the guard charges {RENDER} at once, as page.render" in text and "u.jsonl" in text
    assert guarded.fleet.one("SELECT COUNT(*) FROM usage_samples") == 0
    found: TakenFile = taken(guarded.fleet, file("v.jsonl", "page.view"))
    assert found.outcome == "taken"


@pytest.mark.parametrize("is_new", [True, False], ids=["a new type", "a type that is known"])
@pytest.mark.parametrize("first", ["event", "price"])
def test_concurrent_event_and_guard_price_second_sees_first(
    postgres: sa.Engine, first: str, is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = Guarded(postgres)
    guarded.fleet.clock.at_ms = NOON
    guarded.fleet.assign("acme", from_ms=T0)
    if not is_new:
        told(guarded.fleet, at(guarded, "zero", 0))
    done: list[object] = []

    def run(work: Callable[[], object]) -> None:
        try:
            done.append(work())
        except DrawdownError as error:
            done.append(type(error))

    def tell() -> object:
        return statuses(told(guarded.fleet, at(guarded, "a", 3)))

    works = {"event": tell, "price": lambda: price(guarded)}
    second = Thread(target=run, args=(works["price" if first == "event" else "event"],))
    room, name = (store, "_standing") if first == "event" else (double_billing, "require_nothing_waits")
    whole = getattr(room, name)

    def paused(*given: object) -> object:
        """The last that the first one does before its commit: until the second waits for it."""
        monkeypatch.undo()
        found = whole(*given)
        second.start()
        over_or_blocked(postgres, second)
        return found

    monkeypatch.setattr(room, name, paused)
    run(works[first])
    second.join(30)
    there = guarded.fleet.one("SELECT COUNT(*) FROM usage_events WHERE quantity > 0")
    priced = guarded.fleet.one("SELECT COUNT(*) FROM guard_metrics WHERE metric = 'page.render'")
    if first == "event":
        assert (done, there, priced) == ([[("pending", "unmapped")], Refused], 1, 0)
    else:
        assert (there, priced) == (0, 1)
        assert done in ([None, DatabaseBusy], [DatabaseBusy, None]), "whichever thread says so first"
        assert tell() == [AT_ONCE]
    guarded.prove()


def test_guard_price_while_event_of_ended_feature_is_inserted_is_refused(postgres: sa.Engine) -> None:
    guarded = Guarded(postgres)
    guarded.fleet.clock.at_ms = NOON
    guarded.fleet.assign("acme", from_ms=T0)
    by, window = guarded.fleet.by, NOON - NOON % WINDOW_MS
    write(postgres, lambda c: map_event(c, RENDER, "render", by, from_ms=T0, confirmed=True))

    def priced_once_it_ended(connection: sa.Connection) -> object:
        write(postgres, lambda c: end_feature(c, "render", by, from_ms=window))
        return set_metric(connection, RENDER, Change(phase=3, price_micro=1), by)

    answers, said = beside(postgres, lambda c: store.take(c, [at(guarded, "a", 3)], NOON), priced_once_it_ended)
    assert isinstance(answers, list) and statuses(answers) == [("accepted", None)]
    assert isinstance(said, Refused) and "waits for a feature" in str(said), said
    guarded.prove()
