"""Time: daylight changes, leap days, the ends of months and years, a window's edges to the millisecond.

Windows and days are UTC: a zone is only how a person writes a range. Each sample is billed exactly once, in the window
and on the day its moment lies in.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By
from drawdown.schema.database import read
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


def test_calendar_change_bills_each_second_once(engine: sa.Engine) -> None:
    """Samples from ten minutes before each change to ten after, with a tick every five minutes."""
    changes = sorted(map(at, CHANGES.values()))
    fake = FakeProvider(Capabilities(None, True, lookup_lag_ms=0, totals_lag_ms=0, reads_a_call=10))
    fleet = Fleet(engine, extra={"fake": fake})
    fleet.clock.at_ms = changes[0] - DAY_MS
    fleet.assign("acme", provider="fake", from_ms=fleet.clock.at_ms)
    used: dict[int, int] = {}
    for change in changes:
        for minute in range(-10, 10, 5):
            for part in (0, 4):
                ts = change + (minute + part) * MINUTE_MS
                fleet.sample("acme", ts, 60 + part)
                used[ts - ts % WINDOW_MS] = used.get(ts - ts % WINDOW_MS, 0) + 60 + part
            report = fleet.tick(change + (minute + 5) * MINUTE_MS + GRACE_MS)
            assert (report.exit_status, report.accepted) == (0, 1), "one window a tick, none skipped and none twice"
        begins, ends = change - change % DAY_MS - DAY_MS, change - change % DAY_MS + 2 * DAY_MS
        found = compared(fleet, begins, ends)
        days = {window // DAY_MS for window in used if begins <= window < ends}
        assert (found.differing, found.compared) == ([], len(days))
    assert {window: quantity for _, window, _, _, quantity, _ in fleet.pushes()} == used
    assert len(fake.charged) == len(used)
    assert {push.ts - push.ts % WINDOW_MS: push.quantity for push in fake.charged.values()} == used
    assert read(engine, verify).breaches == []


def test_window_edges_assign_sample_to_window_by_millisecond(engine: sa.Engine) -> None:
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


def test_reconcile_day_ends_at_midnight_utc(engine: sa.Engine) -> None:
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


LOCAL_DAYS = (
    ("Europe/Berlin", "2024-03-31", "2024-04-01", 23),
    ("Europe/Berlin", "2024-10-27", "2024-10-28", 25),
    ("America/New_York", "2024-11-03", "2024-11-04", 25),
    ("Australia/Lord_Howe", "2024-04-07", "2024-04-08", 24.5),
    ("Asia/Kathmandu", "2024-04-07", "2024-04-08", 24),
    ("UTC", "2024-03-31", "2024-04-01", 24),
)


def test_replay_of_local_day_covers_exactly_its_windows(engine: sa.Engine) -> None:
    """Replayed, it finds the windows of that local day, no more and no fewer."""
    fleet = Fleet(engine)
    fleet.clock.at_ms = at("2024-03-01")
    orgs = [f"org-{number}" for number, _ in enumerate(LOCAL_DAYS)]
    fleet.assign(*orgs, from_ms=fleet.clock.at_ms)
    fleet.tick(at("2024-12-01"))
    for org, (zone, begin, end, hours) in zip(orgs, LOCAL_DAYS, strict=True):
        start, stop = parse_time(begin, "--from", 0, zone), parse_time(end, "--to", 0, zone)
        assert stop - start == hours * 60 * MINUTE_MS
        for ts, seconds in {start - 1: 1, start: 10, stop - 1: 100, stop: 1000}.items():
            fleet.sample(org, ts, seconds)
        world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
        made = read(engine, lambda c: plan(c, Range((org,)), start, stop, fleet.clock.at_ms))  # noqa: B023
        runner.run(replay(fleet.context(), made, fleet.by, dry_run=False), world)
    assert _sealed(fleet) == dict.fromkeys(orgs, 110)
    fleet.tick_windows(1)
    assert _sealed(fleet) == dict.fromkeys(orgs, 1111), "the tick bills the others, once"


def _sealed(fleet: Fleet) -> dict[object, object]:
    return dict(fleet.rows("SELECT org_id, CAST(SUM(sealed_qty) AS BIGINT) FROM pushes GROUP BY org_id"))  # type: ignore[arg-type]


TWICE = "this time occurs twice; read as "
BERLIN = "Europe/Berlin"
AUTUMN, SPRING = "2025-10-26T00:30:00Z to 2025-10-26T03:00:00Z", "2025-03-30T01:30:00Z to 2025-03-30T02:00:00Z"
HOURS = (
    (BERLIN, "2025-10-26T02:30", "2025-10-26T04:00", AUTUMN, "2025-10-26T02:30:00+02:00", 110),
    (BERLIN, "2025-10-26T02:30+02:00", "2025-10-26T04:00", AUTUMN, None, 110),
    (BERLIN, "2025-10-26T02:30+01:00", "2025-10-26T04:00", AUTUMN.replace("00:30", "01:30"), None, 100),
    (BERLIN, "2025-10-26T04:00", "2025-10-26T05:00", "2025-10-26T03:00:00Z to 2025-10-26T04:00:00Z", None, 7),
    (BERLIN, "2025-03-30T02:30", "2025-03-30T04:00", SPRING, "2025-03-30T03:30:00+02:00", 20),
    (BERLIN, "2025-03-30T02:30+01:00", "2025-03-30T04:00", SPRING, None, 20),
    (BERLIN, "2025-03-30T01:30", "2025-03-30T04:00", SPRING.replace("01:30", "00:30"), None, 220),
    (
        "America/New_York", "2025-11-02T01:15", "2025-11-02T02:00", "2025-11-02T05:15:00Z to 2025-11-02T07:00:00Z",
        "2025-11-02T01:15:00-04:00", 9,
    ),
    ("UTC", "2025-10-26T00:30", "2025-10-26T03:00", AUTUMN, None, 110),
)  # fmt: skip
"""The zone and the range that a person writes, the range in UTC, how an hour that is there twice or never was taken,
and the units used in it."""


def test_replay_of_ambiguous_or_skipped_hour_shows_range_taken(engine: sa.Engine) -> None:
    """A person who writes such an hour sees which one is meant, or writes the offset; just that one is replayed."""
    url = engine.url.render_as_string(hide_password=False)
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=at("2025-01-01"))
    fleet.tick(at("2025-12-01"))
    used = {"10-26T00:45": 10, "10-26T01:45": 100, "10-26T03:15": 7, "03-30T00:45": 200, "03-30T01:45": 20}
    for moment, seconds in {**used, "11-02T05:30": 9}.items():
        fleet.sample("acme", at(f"2025-{moment}"), seconds)

    def replayed(*options: str) -> list[str]:
        done = drawdown(url, "replay", "acme", *options, at="2025-12-01")
        assert done.status == 0, done
        return done.out.splitlines()

    wrong = []
    for zone, begin, end, range_, taken_as, units in HOURS:
        lines = replayed("--from", begin, "--to", end, "--zone", zone, "--dry-run")
        told = [line.strip() for line in lines if TWICE in line]
        hint = [f"{begin}: {TWICE}{taken_as}. To choose, write the offset"] if taken_as else []
        if (lines[0], told, any(f" {units} units" in line for line in lines)) != (
            f"range    {range_} (UTC)", hint, True,
        ):  # fmt: skip
            wrong.append((zone, begin, lines))
    assert wrong == []
    assert fleet.pushes() == []
    replayed("--from", "2025-10-26T02:30", "--to", "2025-10-26T04:00", "--zone", BERLIN)
    replayed("--from", "2025-03-30T02:30", "--to", "2025-03-30T04:00", "--zone", BERLIN)
    assert [quantity for *_, quantity, _ in fleet.pushes()] == [20, 10, 100]
    fleet.tick(at("2025-12-01"))
    assert [quantity for *_, quantity, _ in fleet.pushes()] == [200, 20, 10, 100, 7, 9], "the rest, once"
