"""Time: daylight changes, leap days, the ends of months and years, a window's edges to the millisecond.

Windows and days are UTC: a zone is only how a person writes a range. Each sample is billed exactly once, in the window
and on the day its moment lies in.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By
from drawdown.schema.database import connect, read
from drawdown.schema.migrate import upgrade
from drawdown.schema.typed.parsing import parse_time
from drawdown.schema.units import DAY_MS, GRACE_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile
from drawdown.worker.replay.plan import ReplayScope as Range
from drawdown.worker.replay.plan import plan
from drawdown.worker.replay.replay import replay
from drawdown.worker.verify.verify import verify
from tests.acceptance.commands import drawdown
from tests.fake_provider import FakeProvider
from tests.whole import share
from tests.world import T0, Fleet

CHANGES = {
    "clocks go forward in Berlin": "2024-03-31T01:00Z",
    "clocks go back in Berlin": "2024-10-27T01:00Z",
    "clocks go back in New York": "2024-11-03T06:00Z",
    "a leap day begins": "2024-02-29",
    "a leap day ends": "2024-03-01",
    "no leap day": "2025-03-01",
    "a month ends": "2025-05-01",
    "a year ends": "2026-01-01",
    "a leap year ends": "2025-01-01",
    "the leap second of 2016": "2017-01-01",
}


def at(text: str) -> int:
    return parse_time(text, "--at", 0)


def compared(fleet: Fleet, from_ms: int, to_ms: int) -> Reconciled:
    fleet.clock.at_ms += CLOCKS_APART_MS
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    scope = ReconcileScope(
        from_ms=from_ms, to_ms=to_ms, org_id="", provider="", threshold=0, shadow_threshold=0, correct=False,
        recent=False,
    )  # fmt: skip
    return runner.run(reconcile(fleet.context(), scope, By(fleet.clock.at_ms, "test", "a test")), world)


PLACES = [("sqlite", name) for name in CHANGES]
PLACES += [("postgresql", name) for name in share(["a leap day begins"], whole=list(CHANGES))]


@pytest.mark.parametrize(("database_url", "name"), PLACES, indirect=["database_url"])
def test_a_change_of_the_calendar_bills_each_second_once(engine: sa.Engine, name: str) -> None:
    """A sample a minute from forty minutes before to forty after, with a tick every five minutes."""
    change = at(CHANGES[name])
    fake = FakeProvider(Capabilities(None, True, lookup_lag_ms=0, totals_lag_ms=0, reads_a_call=10))
    fleet = Fleet(engine, extra={"fake": fake})
    fleet.clock.at_ms = change - 150 * MINUTE_MS
    fleet.assign("acme", provider="fake", from_ms=fleet.clock.at_ms)
    used: dict[int, int] = {}
    for minute in range(-40, 40, 5):
        for part in range(0, 5, 2):
            ts = change + (minute + part) * MINUTE_MS
            fleet.sample("acme", ts, 60 + part)
            used[ts - ts % WINDOW_MS] = used.get(ts - ts % WINDOW_MS, 0) + 60 + part
        report = fleet.tick(change + (minute + 5) * MINUTE_MS + GRACE_MS)
        assert (report.exit_status, report.accepted) == (0, 1), "one window a tick, none skipped and none twice"
    assert {window: quantity for _, window, _, _, quantity, _ in fleet.pushes()} == used
    assert len(fake.charged) == len(used)
    assert {push.ts - push.ts % WINDOW_MS: push.quantity for push in fake.charged.values()} == used
    found = compared(fleet, change - change % DAY_MS - DAY_MS, change - change % DAY_MS + 2 * DAY_MS)
    assert found.differing == [] and found.compared == len({window // DAY_MS for window in used})
    assert read(engine, verify).breaches == []


@pytest.mark.both_databases
def test_edges_of_a_window_to_the_millisecond(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    start = T0 + WINDOW_MS
    fleet.assign("acme", from_ms=T0)
    for seconds, ts in ((1, start - 1), (10, start), (100, start + WINDOW_MS - 1), (1000, start + WINDOW_MS)):
        fleet.sample("acme", ts, seconds)
    end = start + WINDOW_MS
    assert fleet.tick(end + GRACE_MS - 1).sealed == 1, "only the window before: this one's grace is not over"
    fleet.sample("acme", start, 20)
    assert fleet.tick(end + GRACE_MS).sealed == 1
    assert fleet.tick(end + GRACE_MS).sealed == 0
    fleet.sample("acme", end - 1, 40)  # a millisecond after the seal: late
    fleet.tick(end + WINDOW_MS + GRACE_MS)
    assert [(window, revision, quantity) for _, window, _, revision, quantity, _ in fleet.pushes()] == [
        (T0, 0, 1),
        (start, 0, 130),
        (start, 1, 40),
        (end, 0, 1000),
    ]


def test_days_of_reconcile_end_at_midnight_utc(engine: sa.Engine) -> None:
    fake = FakeProvider(Capabilities(None, True, lookup_lag_ms=0, totals_lag_ms=0, reads_a_call=10))
    fleet = Fleet(engine, extra={"fake": fake})
    midnight = T0 + DAY_MS
    fleet.clock.at_ms = T0
    fleet.assign("acme", provider="fake", from_ms=T0)
    for seconds, ts in ((1, midnight - 1), (10, midnight), (100, midnight + DAY_MS - 1), (1000, midnight + DAY_MS)):
        fleet.sample("acme", ts, seconds)
    fleet.tick(midnight + 2 * DAY_MS)
    (push,) = [one for one in fake.charged.values() if one.quantity == 10]
    fake.over["acme", push.feature, push.ts] = 5
    found = compared(fleet, T0, T0 + 4 * DAY_MS)
    assert found.compared == 3
    assert [(line.day_ms, line.ours, line.theirs) for line in found.differing] == [(midnight, 110, 115)]
    assert compared(fleet, midnight + DAY_MS, midnight + 2 * DAY_MS).differing == []


@pytest.mark.parametrize(
    ("zone", "begin", "end", "hours"),
    [
        ("Europe/Berlin", "2024-03-31", "2024-04-01", 23),
        ("Europe/Berlin", "2024-10-27", "2024-10-28", 25),
        ("America/New_York", "2024-11-03", "2024-11-04", 25),
        ("Australia/Lord_Howe", "2024-04-07", "2024-04-08", 24.5),
        ("Asia/Kathmandu", "2024-04-07", "2024-04-08", 24),
        ("UTC", "2024-03-31", "2024-04-01", 24),
    ],
)
def test_a_local_day_is_as_long_as_it_is(engine: sa.Engine, zone: str, begin: str, end: str, hours: float) -> None:
    """Replayed, it finds the windows of that local day, no more and no fewer."""
    start, stop = parse_time(begin, "--from", 0, zone), parse_time(end, "--to", 0, zone)
    assert stop - start == hours * 60 * MINUTE_MS
    fleet = Fleet(engine)
    fleet.clock.at_ms = start - DAY_MS
    fleet.assign("acme", from_ms=start - DAY_MS)
    fleet.tick(start + 3 * DAY_MS)
    lost = {start - 1: 1, start: 10, stop - 1: 100, stop: 1000}
    for ts, seconds in lost.items():
        fleet.sample("acme", ts, seconds)
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    made = read(engine, lambda c: plan(c, Range(), start, stop, fleet.clock.at_ms))
    runner.run(replay(fleet.context(), made, fleet.by, dry_run=False), world)
    assert sum(int(str(quantity)) for *_, quantity, _ in fleet.pushes()) == 110
    fleet.tick_windows(1)
    assert sum(int(str(quantity)) for *_, quantity, _ in fleet.pushes()) == 1111, "the tick bills the others, once"


TWICE = "a daylight change lies there; taken as "


@pytest.mark.parametrize(
    ("begin", "end", "range_", "taken_as", "seconds"),
    [
        ("2025-10-26T02:30", "2025-10-26T04:00", ("00:30", "03:00"), "2025-10-26T02:30:00+02:00", [10, 100]),
        ("2025-10-26T02:30+02:00", "2025-10-26T04:00", ("00:30", "03:00"), None, [10, 100]),
        ("2025-10-26T02:30+01:00", "2025-10-26T04:00", ("01:30", "03:00"), None, [100]),
        ("2025-03-30T02:30", "2025-03-30T04:00", ("01:30", "02:00"), "2025-03-30T03:30:00+02:00", [10]),
        ("2025-03-30T02:30+01:00", "2025-03-30T04:00", ("01:30", "02:00"), None, [10]),
        ("2025-03-30T01:30", "2025-03-30T04:00", ("00:30", "02:00"), None, [100, 10]),
    ],
)
def test_an_hour_that_is_there_twice_or_never_is_said_with_the_one_taken(
    database_url: str, begin: str, end: str, range_: tuple[str, str], taken_as: str | None, seconds: list[int]
) -> None:
    """A person who writes such an hour sees which one is meant, or writes the offset; just that one is replayed."""
    engine = connect(database_url)
    upgrade(engine)
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=at("2025-01-01"))
    fleet.tick(at("2025-12-01"))
    for moment, used in (("10-26T00:45", 10), ("10-26T01:45", 100), ("03-30T00:45", 100), ("03-30T01:45", 10)):
        fleet.sample("acme", at(f"2025-{moment}"), used)
    options = ("acme", "--from", begin, "--to", end, "--zone", "Europe/Berlin")
    day = begin[:10]
    for more in (("--dry-run",), ()):
        done = drawdown(database_url, "replay", *options, *more, at="2025-12-01")
        lines = done.out.splitlines()
        assert done.status == 0, done
        assert lines[0] == f"range    {day}T{range_[0]}:00Z to {day}T{range_[1]}:00Z (UTC)"
        told = [line.strip() for line in lines if TWICE in line]
        assert told == ([f"{begin}: {TWICE}{taken_as}, write the offset to choose"] if taken_as else [])
        assert f"{sum(seconds)} units" in done.out
    assert [quantity for *_, quantity, _ in fleet.pushes()] == seconds
    fleet.tick(at("2025-12-01"))
    assert sorted(int(str(quantity)) for *_, quantity, _ in fleet.pushes()) == [10, 10, 100, 100], "the rest, once"
    engine.dispose()
