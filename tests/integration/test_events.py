"""Usage events become samples, and are sealed, pushed, withdrawn and proven as all usage, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.events.envelope import MAX_QUANTITY, UsageEvent
from drawdown.events.values import COUNT, EventValue
from drawdown.ledger.draws import Cost
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.ids import tell_few_names
from drawdown.schema.units import DAY_MS, FUTURE_SLACK_MS, MAX_EVENT_TYPES, MAX_MEMORY_MB, MAX_METER, MICRO, WINDOW_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.features.actions import end_feature, map_event, map_size
from drawdown.worker.provider import actions
from drawdown.worker.sources.events import types
from drawdown.worker.sources.events.store import EventResult, sample_id_of, sandbox_of, take
from drawdown.worker.sources.events.types import Bringer, meters
from drawdown.worker.sources.samples.quarantine import QuarantineFilter, list_quarantined
from drawdown.worker.usage.prune import prune, raise_floors
from drawdown.worker.usage.withdrawals import withdraw, withdraw_events
from tests.integration.plans import explained, plan_of, sequential
from tests.integration.remote import Far
from tests.integration.telling_events import RENDER, billed_by_units, clean, event, mapped, statuses, told, withdrawn
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.clock.at_ms = T0 + 10
    return made


def sealed(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT window_ms, feature, revision, sealed_qty, state FROM pushes ORDER BY 1, 2, 3")


def test_events_are_billed_as_sum_of_quantities(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    assert statuses(told(fleet, event("a", 3), event("b", 4), event("c", 0))) == [("accepted", None)] * 3
    fleet.sample("acme", T0 + 1, 60)
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert sealed(fleet) == [(T0, "compute_1gb", 0, 60, "accepted"), (T0, "render", 0, 7, "accepted")]
    charged = "SELECT amount_micro FROM ledger_entries WHERE feature = 'render'"
    assert fleet.rows(charged) == [(14,)]
    clean(fleet)


def test_event_is_stored_unchanged_beside_sample(fleet: Fleet) -> None:
    more = {"subject": "u-1", "project": "site", "plan_key": "pro", "properties": {"b": "ü", "a": [1]}}
    told(fleet, event("a", 3, **more))
    assert fleet.rows("SELECT * FROM usage_events") == [
        (sample_id_of("app", "a"), "app", "a", RENDER, "acme", 3, T0 + 1, "u-1", "site", "pro", '{"a":[1],"b":"ü"}',
         T0 + 10)
    ]  # fmt: skip
    meter = fleet.one("SELECT meter FROM event_types")
    sample = (
        "SELECT id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at, problem FROM usage_samples"
    )
    assert fleet.rows(sample) == [
        (sample_id_of("app", "a"), "acme", "event:page.render", "events", meter, 3, T0 + 1, T0 + 10, None)
    ]
    assert meter == MAX_MEMORY_MB + 1


def test_event_sample_ids_are_unique_per_key() -> None:
    keys = [("a", "bc"), ("ab", "c"), ("abc", ""), ("bc", "a")]
    assert len({sample_id_of(*key) for key in keys}) == len(keys)
    assert len({sandbox_of("x" * 200), sandbox_of("x" * 199 + "y"), sandbox_of("x")}) == 3
    assert all(len(sandbox_of("x" * count)) <= 200 for count in (1, 194, 195, 200))


def test_event_repeated_is_duplicate_and_billed_once(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    assert statuses(told(fleet, event("a", 3), event("a", 3), event("b"))) == [
        ("accepted", None), ("duplicate", None), ("accepted", None),
    ]  # fmt: skip
    assert statuses(told(fleet, event("b"), event("a", 3))) == [("duplicate", None)] * 2
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert statuses(told(fleet, event("a", 3))) == [("duplicate", None)]
    assert [row[3] for row in sealed(fleet)] == [4]


OTHERWISE: dict[str, Any] = {
    "quantity": 4, "event_type": "page.view", "org_id": "other", "occurred_ms": T0 + 2, "subject": "u-2",
    "project": "other", "plan_key": "free", "properties": {"a": 2},
}  # fmt: skip


@pytest.mark.parametrize("field", OTHERWISE)
def test_event_key_with_different_content_is_conflict(fleet: Fleet, field: str) -> None:
    billed_by_units(fleet, "acme", "other")
    said: dict[str, Any] = {
        "quantity": 3,
        "subject": "u-1",
        "project": "site",
        "plan_key": "pro",
        "properties": {"a": 1},
    }
    first = event("a", **said)
    second = event("a", **{**said, field: OTHERWISE[field]})
    assert statuses(told(fleet, first, second)) == [("accepted", None), ("conflict", "other_content")]
    for batch in ((second,), (second, first), (event("b"), second)):
        answers = told(fleet, *batch)
        found = {one.event_id + str(one == second): answer.status for one, answer in zip(batch, answers, strict=True)}
        assert found["aTrue"] == "conflict"
        assert found.get("aFalse", "duplicate") == "duplicate"
    kept = fleet.rows("SELECT sample_id, source FROM sample_conflicts")
    assert kept == [(sample_id_of("app", "a"), "event:app")], "once, however often it is said"
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert [row[3] for row in sealed(fleet)] == [3 + 1]
    page = read(fleet.engine, lambda c: list_quarantined(c, QuarantineFilter(), fleet.clock.at_ms))
    assert [(one.sample_id, one.reason) for one in page.samples] == [(sample_id_of("app", "a"), "id_conflict")]
    clean(fleet)


def test_invalid_event_does_not_reject_batch(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    fleet.tick(T0 + 2 * WINDOW_MS)
    write(fleet.engine, lambda c: raise_floors(c, before=T0, by=fleet.by))
    answers = told(
        fleet,
        event("ancient", occurred_ms=5),
        event("late", occurred_ms=T0 - 1),
        event("early", occurred_ms=fleet.clock.at_ms + FUTURE_SLACK_MS + 1),
        event("early", occurred_ms=fleet.clock.at_ms + FUTURE_SLACK_MS),
        event("good"),
        event("late", occurred_ms=T0 - 1),
        event("late"),
    )
    assert statuses(answers) == [
        ("invalid", "too_old"), ("invalid", "too_late"), ("invalid", "in_the_future"), ("accepted", None),
        ("accepted", None), ("invalid", "too_late"), ("invalid", "key_repeated"),
    ]  # fmt: skip
    assert fleet.rows("SELECT event_id FROM usage_events ORDER BY 1") == [("early",), ("good",)]
    assert statuses(told(fleet, event("late"))) == [("accepted", None)], "nothing was taken by that key"
    assert told(fleet) == []


def test_event_answer_quotes_event_type_in_command(fleet: Fleet) -> None:
    fleet.assign("acme", from_ms=T0)
    (found,) = told(fleet, event("a", event_type="page; $(touch x)"))
    assert "`drawdown feature map-event 'page; $(touch x)' FEATURE " in (found.message or "")


def test_pending_event_usage_is_billed_once_after_mapping(fleet: Fleet) -> None:
    assert statuses(told(fleet, event("a", 5))) == [("pending", "unassigned")]
    fleet.assign("acme", from_ms=T0)
    assert statuses(told(fleet, event("b", 6))) == [("pending", "unmapped")]
    assert statuses(told(fleet, event("x", org_id="free"))) == [("pending", "unassigned")]
    fleet.assign("free", provider="legacy", from_ms=T0)
    assert statuses(told(fleet, event("y", org_id="free"))) == [("accepted", None)]
    report = fleet.tick(T0 + 2 * WINDOW_MS)
    assert (report.left.pending_s, report.left.pending_units) == ({}, {"no_mapping": 11})
    with pytest.raises(Refused, match="--dry-run"):
        write(fleet.engine, lambda c: map_event(c, RENDER, "render", fleet.by, from_ms=T0))
    found = mapped(fleet)
    assert (found.resolved_s, found.resolved_windows, found.resolved_sizes) == (11, 1, 1)
    for _ in range(2):
        assert fleet.tick_windows(1).left.pending_units == {}
        assert [row[:4] for row in sealed(fleet)] == [(T0, "render", 0, 11)]
    clean(fleet)


def test_late_event_is_sealed_in_its_own_window(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    told(fleet, event("a", 3))
    fleet.tick(T0 + 4 * WINDOW_MS)
    assert statuses(told(fleet, event("b", 4))) == [("accepted", None)]
    fleet.tick_windows(1)
    assert sealed(fleet) == [(T0, "render", 0, 3, "accepted"), (T0, "render", 1, 4, "accepted")]
    clean(fleet)


@pytest.mark.parametrize("by_sample", [False, True])
def test_withdrawn_event_is_refunded_and_its_id_stays_withdrawn(fleet: Fleet, *, by_sample: bool) -> None:
    billed_by_units(fleet, "acme")
    told(fleet, event("a", 3), event("b", 4))
    fleet.tick(T0 + 2 * WINDOW_MS)
    if by_sample:
        write(fleet.engine, lambda c: withdraw(c, [sample_id_of("app", "a")], fleet.by))
    else:
        withdrawn(fleet, "a")
        withdrawn(fleet, "a")
    fleet.tick_windows(1)
    assert [row[3] for row in sealed(fleet)] == [7, -3]
    assert statuses(told(fleet, event("a", 3))) == [("duplicate", "withdrawn")]
    assert statuses(told(fleet, event("a", 9))) == [("conflict", "other_content")]
    assert statuses(told(fleet, event("a-right", 2))) == [("accepted", None)]
    fleet.tick_windows(1)
    assert [row[3] for row in sealed(fleet)] == [7, -3, 2]
    clean(fleet)


def test_withdraw_of_unknown_event_is_refused(fleet: Fleet) -> None:
    told(fleet, event("a"))
    told(fleet, event("first-one"))
    with pytest.raises(UnknownId, match=r"unknown event of this source frist-one; did you mean first-one\?"):
        withdrawn(fleet, "a", "frist-one")
    assert fleet.rows("SELECT * FROM withdrawals") == []
    with pytest.raises(UnknownId, match="did you mean app"):
        read(fleet.engine, lambda c: withdraw_events(c, "apps", ["a"], fleet.by))


def test_unknown_event_beyond_search_budget_gets_no_suggestion(fleet: Fleet) -> None:
    told(fleet, event("first-one"))

    def withdraw(connection: sa.Connection) -> None:
        tell_few_names(connection, lambda: False)
        withdraw_events(connection, "app", ["frist-one"], fleet.by)

    with pytest.raises(UnknownId, match="unknown event") as caught:
        read(fleet.engine, withdraw)
    assert "first-one" not in str(caught.value)


def test_prune_deletes_events_and_withdrawn_id_stays_refused(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    told(fleet, event("a", 3), event("gone", 4), event("new", 5, occurred_ms=fleet.clock.at_ms))
    fleet.tick(T0 + 2 * WINDOW_MS)
    withdrawn(fleet, "gone")
    fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
    told(fleet, event("kept", 6, occurred_ms=fleet.clock.at_ms))
    assert prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by).samples == 3
    assert fleet.rows("SELECT event_id FROM usage_events") == [("kept",)]
    clean(fleet)
    assert statuses(told(fleet, event("a", 3), event("gone", 4))) == [("invalid", "too_late")] * 2
    now = fleet.clock.at_ms
    assert statuses(told(fleet, event("gone", 4, occurred_ms=now))) == [("invalid", "withdrawn")]
    assert statuses(told(fleet, event("a", 3, occurred_ms=now))) == [("accepted", None)], "keys hold above the floor"
    fleet.tick_windows(2)
    clean(fleet)


def test_memory_tier_does_not_include_event_usage(fleet: Fleet) -> None:
    fleet.assign("acme", from_ms=T0)

    def work(connection: sa.Connection) -> None:
        for size in (None, MAX_MEMORY_MB):
            map_size(connection, "rest", fleet.by, kind="up_to", memory_mb=size, unit="mb_s", from_ms=T0)

    write(fleet.engine, work)
    told(fleet, event("a", 5))
    fleet.sample("acme", T0 + 1, 2, memory_mb=MAX_MEMORY_MB)
    report = fleet.tick(T0 + 2 * WINDOW_MS)
    assert [row[:4] for row in sealed(fleet)] == [(T0, "rest", 0, 2 * MAX_MEMORY_MB)]
    assert report.left.pending_units == {"no_mapping": 5}
    clean(fleet)
    mapped(fleet)
    fleet.tick_windows(1)
    assert [row[1:4] for row in sealed(fleet)] == [("render", 0, 5), ("rest", 0, 2 * MAX_MEMORY_MB)]
    clean(fleet)


def test_event_largest_quantities_are_exact(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    told(fleet, *(event(str(number), MAX_QUANTITY - number) for number in range(9)))
    fleet.sample("acme", T0 + 1, 86_400)
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert [row[3] for row in sealed(fleet)] == [86_400, 9 * MAX_QUANTITY - 36]
    withdrawn(fleet, "0")
    fleet.tick_windows(1)
    assert [row[3] for row in sealed(fleet)] == [86_400, 9 * MAX_QUANTITY - 36, -MAX_QUANTITY]
    clean(fleet)


@pytest.mark.both_databases
def test_event_type_after_feature_end_is_billed_as_new_feature(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    told(fleet, event("a", 3))
    fleet.tick(T0 + 2 * WINDOW_MS)
    ends = T0 + 3 * WINDOW_MS
    write(fleet.engine, lambda c: end_feature(c, "render", fleet.by, from_ms=ends))
    told(fleet, event("b", 4, occurred_ms=ends - 1), event("c", 5, occurred_ms=fleet.clock.at_ms))
    fleet.clock.at_ms = ends + 10
    assert statuses(told(fleet, event("d", 6, occurred_ms=ends))) == [("pending", "unmapped")]
    assert fleet.tick(ends + 3 * WINDOW_MS).left.pending_units == {"no_mapping": 6}
    mapped(fleet, feature="drawing", from_ms=ends)
    fleet.tick_windows(1)
    assert sum(int(str(row[3])) for row in sealed(fleet) if row[1] == "render") == 12
    assert [row[3] for row in sealed(fleet) if row[1] == "drawing"] == [6]
    with pytest.raises(Refused, match=r"the event type page\.render: it is mapped to render in sealed windows"):
        mapped(fleet, feature="drawing", from_ms=T0)
    clean(fleet)


@pytest.mark.parametrize(
    ("event_type", "feature", "unit", "error"),
    [
        (RENDER, "Render", "units", UsageError),
        (RENDER, "render", "s", UsageError),
        ("", "render", "units", UsageError),
        ("x\n", "render", "units", UsageError),
        (RENDER, "compute_1gb", "units", Refused),
    ],
)
def test_event_mapping_with_invalid_values_is_refused(
    fleet: Fleet, event_type: str, feature: str, unit: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        write(fleet.engine, lambda c: map_event(c, event_type, feature, fleet.by, unit=unit))
    assert fleet.rows("SELECT * FROM event_types") == []


def test_size_mapping_to_feature_in_units_is_refused(fleet: Fleet) -> None:
    mapped(fleet)
    with pytest.raises(Refused, match=r"the unit of render is units \(the event type page\.render"):
        write(fleet.engine, lambda c: map_size(c, "render", fleet.by, kind="exact", memory_mb=77, unit="s"))
    for size, unit in ((MAX_MEMORY_MB + 1, "units"), (77, "units"), (MAX_METER, "s")):
        with pytest.raises(UsageError):
            write(
                fleet.engine,
                lambda c, size=size, unit=unit: map_size(c, "x", fleet.by, kind="exact", memory_mb=size, unit=unit),  # type: ignore[misc]
            )


def test_event_mapping_with_mistyped_type_or_feature_is_refused(fleet: Fleet) -> None:
    def add(event_type: str, feature: str, *, new: bool = False) -> object:
        return write(fleet.engine, lambda c: map_event(c, event_type, feature, fleet.by, new=new))

    add(RENDER, "render")
    for slip in (("page.rendr", "render"), (RENDER, "rendr"), ("page.view", "rendre")):
        with pytest.raises(UnknownId, match="did you mean"):
            add(*slip)
    add("page.rendr", "rendr", new=True)
    add("email", "mail")
    assert fleet.one("SELECT COUNT(*) FROM event_types") == 3


def test_event_types_beyond_limit_are_invalid(fleet: Fleet) -> None:
    fleet.assign("acme", from_ms=T0)
    fleet.write(
        "INSERT INTO event_types (event_type, meter, first_seen_ms) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL "
        f"SELECT i + 1 FROM n WHERE i < {MAX_EVENT_TYPES - 2}) SELECT 't' || i, {MAX_MEMORY_MB} + i, 0 FROM n"
    )
    answers = told(fleet, *(event(name, event_type=name) for name in ("c", "a", "b", "t1")))
    assert statuses(answers) == [
        ("invalid", "too_many_types"), ("pending", "unmapped"), ("pending", "unmapped"), ("pending", "unmapped"),
    ]  # fmt: skip
    assert fleet.one("SELECT COUNT(*) FROM event_types") == MAX_EVENT_TYPES
    assert statuses(told(fleet, event("c", event_type="c"), event("d", event_type="a"))) == [
        ("invalid", "too_many_types"), ("pending", "unmapped"),
    ]  # fmt: skip
    with pytest.raises(Refused, match="10,000 event types"):
        mapped(fleet, "c")
    fleet.tick(T0 + 2 * WINDOW_MS)
    clean(fleet)


@pytest.mark.both_databases
def test_unused_event_types_are_freed_after_a_day(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key filled all there may be for good, by quantity 0 of an organisation that does not exist."""
    monkeypatch.setattr(types, "MAX_EVENT_TYPES", 5)
    fleet.assign("acme", from_ms=T0)
    full = [("invalid", "too_many_types")]
    told(fleet, *(event(f"n{at}", 0, event_type=f"n{at}", org_id="nowhere") for at in range(3)))
    told(fleet, event("w", 4, event_type="waits"))
    mapped(fleet, "mapped")
    assert statuses(told(fleet, event("x", event_type="x"))) == full
    fleet.tick(T0 + 3 * WINDOW_MS)
    assert statuses(told(fleet, event("x", event_type="x"))) == full, "its usage may not be sealed yet"
    fleet.tick(
        T0 + 2 * DAY_MS, shard=Shard(128, 255)
    )  # the first shard frees types, also if another one begins the day
    fleet.tick(shard=Shard(0, 127))
    freed = "SELECT event_type FROM event_types WHERE freed_ms IS NOT NULL ORDER BY event_type"
    assert fleet.rows(freed) == [("n0",), ("n1",), ("n2",)]
    meters = fleet.rows("SELECT event_type, meter FROM event_types ORDER BY meter")
    answers = told(fleet, *(event(name, 2, event_type=name) for name in ("x", "y", "z", "zz")))
    assert statuses(answers) == [("pending", "unmapped")] * 3 + full
    assert fleet.rows("SELECT event_type, meter FROM event_types ORDER BY meter")[:5] == meters, "a meter is for good"
    told(fleet, event("again", 3, event_type="n1", occurred_ms=T0 + 2 * DAY_MS - WINDOW_MS))
    fleet.tick(T0 + 3 * DAY_MS)
    fleet.tick(T0 + 4 * DAY_MS)
    assert fleet.rows(freed) == [("n0",), ("n2",)], "one that is used again counts again"
    clean(fleet)


def test_host_sample_with_event_meter_is_quarantined(fleet: Fleet) -> None:
    """What a host writes by mistake stays quarantined, as it was before there were meters."""
    told(fleet, event("a"))
    for size, seconds, reason in (
        (MAX_MEMORY_MB + 1, 60, "memory_out_of_bounds"),
        (MAX_METER, 60, "memory_out_of_bounds"),
        (MAX_METER + 1, 60, "memory_out_of_bounds"),
        (MAX_MEMORY_MB, 86_401, "interval_over_a_day"),
    ):
        name = fleet.sample("acme", T0 + 1, seconds, memory_mb=size)
        assert fleet.one("SELECT problem FROM usage_samples WHERE id = :id", id=name) == reason


def test_event_with_id_of_host_sample_is_conflict(fleet: Fleet) -> None:
    billed_by_units(fleet, "acme")
    fleet.sample("acme", T0 + 1, 60, sample_id=sample_id_of("app", "a"), cell="events")
    assert statuses(told(fleet, event("a", 3), event("b", 4))) == [("conflict", "other_content"), ("accepted", None)]
    assert fleet.rows("SELECT event_id FROM usage_events") == [("b",)]
    assert fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 1
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert [row[1:4] for row in sealed(fleet)] == [("compute_1gb", 0, 60), ("render", 0, 4)]
    clean(fleet)


def at_once(engine: sa.Engine, works: list[Callable[[sa.Connection], list[EventResult]]]) -> list[list[EventResult]]:
    """Transactions that begin together, each in its own thread."""
    barrier = Barrier(len(works))

    def one(work: Callable[[sa.Connection], list[EventResult]]) -> list[EventResult]:
        barrier.wait()
        return write(engine, work)

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(one, works))


def test_concurrent_batches_of_same_events_store_each_once(fleet: Fleet) -> None:
    """In opposite orders, with types that nobody has seen yet: nobody waits crosswise, and nothing fails."""
    fleet.assign("acme", from_ms=T0)
    for number in range(6):
        events = [event(f"{number}-{i}", i, event_type=f"t{number}-{i % 7}") for i in range(200)]

        def work(connection: sa.Connection, batch: list[UsageEvent]) -> list[EventResult]:
            return take(connection, batch, T0 + 10)

        batches = [events, events[::-1], events[50:150]]
        found = at_once(fleet.engine, [partial(work, batch=batch) for batch in batches])
        names = [one.event_id for batch in batches for one in batch]
        answers = [one.status for answers in found for one in answers]
        for each in events:
            mine = [answer for name, answer in zip(names, answers, strict=True) if name == each.event_id]
            assert sorted(mine, reverse=True)[0] == "pending"
            assert mine.count("pending") == 1
            assert set(mine) <= {"pending", "duplicate"}
    assert fleet.one("SELECT COUNT(*) FROM usage_events") == 1_200
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 1_200
    assert (
        fleet.one("SELECT COUNT(DISTINCT meter) FROM event_types")
        == 42
        == fleet.one("SELECT COUNT(*) FROM event_types")
    )
    clean(fleet)


def test_event_type_meter_after_rollback_is_reused(postgres: sa.Engine) -> None:
    fleet = Fleet(postgres)
    with postgres.begin() as open_:
        assert meters(open_, ["a", "b"], T0) == {"a": MAX_MEMORY_MB + 1, "b": MAX_MEMORY_MB + 2}
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(write, postgres, lambda c: meters(c, ["b", "c"], T0))
            open_.rollback()
            assert other.result(10) == {"b": MAX_MEMORY_MB + 1, "c": MAX_MEMORY_MB + 2}
    assert write(fleet.engine, lambda c: meters(c, ["a", "c"], T0)) == {"a": MAX_MEMORY_MB + 3, "c": MAX_MEMORY_MB + 2}


@pytest.mark.parametrize(
    ("bound", "by", "other"),
    [
        ("MAX_ORG_TYPES", Bringer(org_id="acme"), Bringer(org_id="globex")),
        ("MAX_KEY_TYPES", Bringer(key_name="app"), Bringer(key_name="web")),
        ("MAX_SOURCE_TYPES", Bringer(key_name="app", source="/app"), Bringer(key_name="web", source="/web")),
    ],
)
def test_event_type_limit_of_org_key_or_source_holds_concurrently(
    postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch, bound: str, by: Bringer, other: Bringer
) -> None:
    """Another one commits between the look at how many there are and the next number."""
    fleet = Fleet(postgres)
    monkeypatch.setattr(types, bound, 2)
    write(fleet.engine, lambda c: meters(c, ["a"], T0, by))
    looked, others = types._has_room, ["c"]

    def has_room(connection: sa.Connection, who: Bringer) -> bool:
        found = looked(connection, who)
        if others:
            name = others.pop()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(write, postgres, lambda c: meters(c, [name], T0, by)).result(10)
        return found

    monkeypatch.setattr(types, "_has_room", has_room)
    assert write(fleet.engine, lambda c: meters(c, ["b"], T0, by)) == {}
    assert fleet.one("SELECT COUNT(*) FROM event_types") == 2
    assert write(fleet.engine, lambda c: meters(c, ["b"], T0, other)), "another one has its own"
    assert write(fleet.engine, lambda c: meters(c, ["d"], T0)), "a person names what a key may not bring"


def test_event_batch_runs_few_statements(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    def taking(batch: list[UsageEvent]) -> int:
        nonlocal count
        count = 0
        write(engine, lambda c: take(c, batch, T0 + 10))
        return count

    sa.event.listen(engine, "before_cursor_execute", counted)
    small, large = ([event(f"{size}-{i}") for i in range(size)] for size in (2, 1_000))
    taking(small)
    assert taking(large) <= 12
    assert taking(large) <= taking(small) + 1


def test_new_event_keys_do_not_scan_sample_table(postgres: sa.Engine) -> None:
    fleet = Fleet(postgres)
    for start in (0, 1_000, 2_000):
        told(fleet, *(event(str(start + i)) for i in range(1_000)))
    with postgres.begin() as connection:
        connection.exec_driver_sql("ANALYZE usage_samples, usage_events")
    with explained(postgres) as plans:
        told(fleet, *(event(f"new-{i}") for i in range(300)))
    assert "usage_samples" not in sequential(plan_of(plans, "INSERT INTO usage_events"))


def test_execution_at_external_provider_bills_event_feature(engine: sa.Engine) -> None:
    """Its samples have the meter, and its own rows say so."""
    far = Far(engine)
    mapped(far.fleet, from_ms=far.fleet.clock.at_ms + WINDOW_MS)
    far.fleet.tick_windows(1)
    by = far.fleet.by
    far.write(lambda c: actions.set_rate(c, "far", "render", (1, 1), by, from_ms=T0, new=True))
    request = Request("acme", quantities={"render": 5}, overage="charge")
    far.write(lambda c: executions.accept(c, "e-1", request, by))
    used = Cost(quantities={"render": 2 * 10**11 + 3})
    for _ in range(2):
        far.write(lambda c: executions.settle(c, "e-1", used, by))
    assert told(far.fleet, event("a", 4, occurred_ms=far.fleet.clock.at_ms))[0].status == "accepted"
    far.fleet.tick_windows(2)
    assert far.billed == 2 * 10**11 + 7
    samples = "SELECT cell_id, COUNT(*) FROM usage_samples WHERE problem IS NULL GROUP BY 1 ORDER BY 1"
    assert far.fleet.rows(samples) == [("events", 1), ("runs", 3)]
    far.clean()


def test_unsealed_events_lower_estimated_balance(engine: sa.Engine) -> None:
    """A halt comes within seconds of the event that used up the credit, and by no later tick."""
    far = Far(engine)
    mapped(far.fleet, from_ms=far.fleet.clock.at_ms + WINDOW_MS)
    far.fleet.tick_windows(1)
    by = far.fleet.by
    far.write(lambda c: actions.set_rate(c, "far", "render", (MICRO, 1), by, from_ms=T0, new=True))
    before = far.available
    now = far.fleet.clock.at_ms
    told(far.fleet, event("a", 30, occurred_ms=now), event("b", 5, occurred_ms=now), event("c", 9, event_type="x"))
    assert before - far.available == 35
    withdrawn(far.fleet, "b")
    assert before - far.available == 30


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE usage_events SET quantity = 1", r"cannot change an event: .* \(S7\)"),
        ("DELETE FROM usage_events", "cannot delete an event without its sample"),
        ("DELETE FROM usage_samples", "S4"),
        ("UPDATE event_types SET meter = 16777300", "cannot change an event type's meter"),
        ("DELETE FROM event_types", "cannot delete an event type"),
        ("UPDATE event_values SET aggregation = 'sum', path = '$.a'", "append-only"),
        ("DELETE FROM event_values", "append-only"),
        ("INSERT INTO event_types VALUES ('other', 16777217, 0, NULL, NULL, NULL, NULL)", "(?i)unique"),
        ("INSERT INTO usage_events SELECT 'x', source, event_id, event_type, org_id, -1, ts, subject, project, "
         "plan_key, properties, ingested_ms FROM usage_events", "usage_events_quantity"),
    ],
)  # fmt: skip
def test_event_rows_are_immutable_in_database(fleet: Fleet, statement: str, rule: str) -> None:
    told(fleet, event("a"))
    write(fleet.engine, lambda c: map_event(c, "model.run", "runs", fleet.by, value=EventValue(COUNT)))
    with pytest.raises(DBAPIError, match=rule):
        fleet.write(statement)


@pytest.mark.parametrize("table", ["usage_events", "event_types"])
def test_truncate_of_event_tables_is_refused(postgres: sa.Engine, table: str) -> None:
    fleet = Fleet(postgres)
    told(fleet, event("a", occurred_ms=T0))
    with pytest.raises(DBAPIError, match="cannot truncate"):
        fleet.write(f"TRUNCATE {table}")
