"""What pages of rules show, and `limit show` and `event sources` tell: as much as is there, by so many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId
from drawdown.schema.roles import UNREAD
from drawdown.schema.tables.whole import metadata
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.access import audit
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.audit import AuditFilter, list_audit
from drawdown.worker.access.people import list_users
from drawdown.worker.guard import allowances as guard_standing
from drawdown.worker.guard import lists as guard_blocks
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_facts
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.lists import list_metrics, report
from drawdown.worker.guard.overrides import Terms
from drawdown.worker.guard.use import Wish
from drawdown.worker.sources.events.store import take
from drawdown.worker.status import tables
from drawdown.worker.usage import intake as event_intake
from drawdown.worker.usage.intake import EventFilter
from tests.integration.guarding import Guarded
from tests.integration.verifying import tamper
from tests.server.ruled import events, keys
from tests.world import T0, Fleet

T = TypeVar("T")


def look(engine: sa.Engine, work: Callable[..., T], *asked: Any, **more: Any) -> T:
    """What a view says."""
    return read(engine, lambda c: work(c, *asked, **more))


def do(engine: sa.Engine, work: Callable[..., T], *asked: Any, **more: Any) -> T:
    return write(engine, lambda c: work(c, *asked, **more))


@pytest.fixture
def guarded(engine: sa.Engine) -> Guarded:
    made = Guarded(engine)
    made.limit("look", 10, "day")
    made.fleet.assign("acme", "globex", from_ms=T0)
    for org in ("acme", "globex"):
        for amount in (6, 3, 9, 9):
            made.keys += 1
            do(engine, guard.consume, f"k{made.keys}", Wish(org, "look", amount), made.fleet.by)
    return made


def test_guard_block_rates_equal_report_if_all_rows_are_counted(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, now = guarded.fleet.engine, guarded.fleet.clock.at_ms
    for later in (0, 2 * DAY_MS, 8 * DAY_MS, 40 * DAY_MS):
        page = look(engine, guard_blocks.block_rates, now + later)
        for one, exact in zip(page.metrics, look(engine, list_metrics, now + later, 99), strict=True):
            assert one.metric == exact.metric and all(rate.whole for rate in one.rates)
            assert [(r.requests, r.blocked, r.would, r.blocked_ppm or 0) for r in one.rates] == [
                (r.requests, r.blocked, r.would, r.blocked_ppm) for r in exact.rates
            ]
            for phase in range(4):
                said = look(engine, report, one.metric, phase, now + later - 7 * DAY_MS)
                assert one.would_in(phase) == said.blocked
                assert phase != 3 or (one.orgs, one.paying) == (said.orgs, said.paying)
    assert [(b.org_id, b.blocked, b.would) for b in page.most_blocked] == []
    most = look(engine, guard_blocks.block_rates, now, metric="look", span="24h").most_blocked
    assert [(b.org_id, b.metric, b.blocked, b.pays) for b in most] == [
        ("acme", "look", 2, False), ("globex", "look", 2, False),
    ]  # fmt: skip

    monkeypatch.setattr(guard_blocks, "MOST_COUNTED", 2)
    guarded.fleet.clock.at_ms += 3 * DAY_MS
    for key in ("new-1", "new-2"):
        do(engine, guard.consume, key, Wish("acme", "look", 1), guarded.fleet.by)
    (found,) = look(engine, guard_blocks.block_rates, guarded.fleet.clock.at_ms, metric="look").metrics
    assert [(rate.whole, rate.requests) for rate in found.rates] == [(False, 2)] * 3, "the newest, since when is told"
    assert {rate.since_ms for rate in found.rates} == {guarded.fleet.clock.at_ms}
    monkeypatch.setattr(guard_blocks, "PAGE_METRICS", 2)
    first = look(engine, guard_blocks.block_rates, now)
    rest = look(engine, guard_blocks.block_rates, now, after=first.next_after or "")
    assert [[one.metric for one in page.metrics] for page in (first, rest)] == [["byte", "idea"], ["look"]]
    assert rest.next_after is None


def test_org_limits_shown_equal_limits_that_decide(guarded: Guarded) -> None:
    engine, now = guarded.fleet.engine, guarded.fleet.clock.at_ms
    ends = now + 2 * DAY_MS
    for target, amount in (("acme", 20), ("globex*", 15)):
        reach: Any = "org" if target == "acme" else "pattern"
        terms = Terms("look", reach, target, "day", amount, ends)
        guarded.write(lambda c, t=terms: guard_overrides.add(c, t, guarded.fleet.by, asked=False))  # type: ignore[misc]
    hold = Wish("acme", "look", 5, for_ms=MINUTE_MS)
    guarded.write(lambda c: guard.reserve(c, "held", hold, guarded.fleet.by))
    for org, later in (("acme", 0), ("globex", 0), ("acme", 2 * MINUTE_MS), ("acme", ends - now), ("globex", DAY_MS)):
        at = now + later
        found = look(engine, guard_standing.standing_of, org, at)
        (row,) = (one for one in found.rows if one.metric == "look")
        answer = look(engine, guard.check, Wish(org, "look", 1), at)
        assert (row.rule, row.amount, row.period) == (answer.rule, answer.limit, answer.period)
        assert (row.used, row.resets_ms) == (answer.used, answer.resets_ms)
        assert row.remaining == (answer.remaining or 0) + (answer.decision != "block")
        known = look(engine, guard_facts.know, Wish(org, "look", 1), at)
        assert (found.customer_id, found.plan, found.pays) == (known.customer_id, known.plan, known.pays)
        assert row.until_ms == (ends if later < ends - now else None)
    none = [one for one in found.rows if one.metric == "idea"]
    assert [(one.period, one.rule, one.remaining) for one in none] == [(None, "no_entitlement", 0)]
    refused = look(engine, guard_standing.standing_of, "globex", now).refusals
    assert [(one.reason, one.enforced, one.times) for one in refused] == [("limit", True, 2)]
    with pytest.raises(UnknownId, match="did you mean acme"):
        look(engine, guard_standing.standing_of, "acmee", now)


@pytest.fixture
def ruled(engine: sa.Engine) -> Fleet:
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    fleet.sample("acme", T0 + 1)
    fleet.tick_windows(3)
    return fleet


@pytest.mark.both_databases
def test_events_by_arrival_are_paged_completely(ruled: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    events(ruled, "acme", "globex")
    engine, now = ruled.engine, ruled.clock.now_ms()
    many = [UsageEvent("bulk", f"b-{n}", "order", "acme", 1, now) for n in range(7)]
    for at in (0, 1):
        do(engine, take, many[at::2], now + at)
    there = {str(name) for (name,) in ruled.rows("SELECT sample_id FROM usage_events")}

    def walked(chosen: EventFilter, most: int) -> list[str]:
        names, place = [], None
        for _ in range(40):
            page = look(engine, event_intake.arrivals, chosen, after=place, most=most)
            names += [one.sample_id for one in page.events]
            place = page.next
            if place is None:
                return names
        raise AssertionError("it never ends")

    for seen in (event_intake.MOST_SEEN, 4):
        monkeypatch.setattr(event_intake, "MOST_SEEN", seen)
        for most in (2, 50):
            assert (len(walked(EventFilter(), most)), set(walked(EventFilter(), most))) == (len(there), there)
            assert len(walked(EventFilter("shop"), most)) == 4, "also where a look finds none of a source"
    found = look(engine, event_intake.sources, now)
    assert (found.seen, found.whole, found.since_ms) == (4, False, now)
    monkeypatch.undo()
    found = look(engine, event_intake.sources, now)
    assert found.whole and {(one.source, one.event_type): (one.events, one.of_day) for one in found.rows} == {
        ("bulk", "order"): (7, 7), ("shop", "order"): (3, 3), ("shop", "globex"): (1, 1),
    }  # fmt: skip
    (one,) = look(engine, event_intake.conflicts).conflicts
    assert (one.event_id, one.org_id, one.closed) == ("order-1", "acme", False) and '"quantity":9' in one.content
    assert read(engine, event_intake.quarantined) == {"id_conflict": 1, "interval_negative": 1}
    for chosen, near in ((EventFilter("shopp"), "shop"), (EventFilter(event_type="ordr"), "order")):
        with pytest.raises(UnknownId, match=near):
            look(engine, event_intake.sources, now, chosen)


def test_audit_page_lists_all_matching_actions_and_reports_tampering(ruled: Fleet) -> None:
    keys(ruled, "acme", "globex")
    exact = look(ruled.engine, list_audit, AuditFilter(action="key_create"), most=99).actions
    names, before = [], 0
    while True:
        page = look(ruled.engine, list_audit, AuditFilter(action="key_create"), before=before, most=2, within=3)
        names += [one.action_id for one in page.actions]
        if page.next_before is None:
            break
        before = page.next_before
    assert names == [one.action_id for one in exact] and len(names) == 4
    deeds = look(ruled.engine, list_audit, AuditFilter(), most=99).actions
    assert look(ruled.engine, audit.unchained, deeds) == []
    tamper(ruled, f"UPDATE operator_actions SET reason = 'another' WHERE action_id = {deeds[3].action_id}")
    assert look(ruled.engine, audit.unchained, deeds) == [deeds[3].action_id]
    gone = deeds[6].action_id
    tamper(ruled, f"DELETE FROM operator_actions WHERE action_id = {gone}")
    assert look(ruled.engine, audit.unchained, deeds) == [deeds[5].action_id, deeds[3].action_id]


def test_keys_and_console_users_are_paged_by_name(ruled: Fleet) -> None:
    keys(ruled, "acme", "globex")
    engine, now, names, after = ruled.engine, ruled.clock.now_ms(), [], ""
    while True:
        page = look(engine, api_keys.page_of_keys, now, after=after, most=1)
        names += [(one.name, one.state) for one in page.keys]
        if page.next_after is None:
            break
        after = page.next_after
    assert names == [
        ("globex", "good"), ("old", "good"), ("old", "rotated"), ("over", "ended"), ("shop", "good"),
    ]  # fmt: skip
    assert len(look(engine, api_keys.page_of_keys, now + 2 * DAY_MS).keys) == 4, "the rotated one is over"
    user = "INSERT INTO console_users (name, role, created_ms, ended_ms, actor, reason) VALUES "
    user += "('{}', 'viewer', 1, {}, 'a', 'r')"
    for name, ended in (("d", "NULL"), ("a", "5"), ("b", "NULL"), ("c", "5")):
        ruled.write(user.format(name, ended))
    people, last = [], None
    while True:
        more: dict[str, Any] = {} if last is None else {"after": last.name, "ended": last.ended_ms is not None}
        found = look(engine, list_users, now, 1, **more)
        if not found:
            break
        last = found[0]
        people.append(last.name)
    assert people == ["b", "d", "a", "c", "tom"], "who may come in, and then who was ended"


def test_raw_rows_use_index_and_exclude_secrets(ruled: Fleet) -> None:
    assert not set(tables.TABLES) & set(UNREAD) and {"orgs", "guard_uses", "usage_samples"} <= set(tables.TABLES)
    columns = {f"{t}.{c.name}": c.name for t in tables.TABLES for c in metadata.tables[t].columns}
    hidden = {place for place, name in columns.items() if tables.HIDDEN.fullmatch(name)}
    assert {"guard_uses.fingerprint", "reservations.fingerprint"} <= hidden
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        seen.append((statement, values))

    sa.event.listen(ruled.engine, "before_cursor_execute", note)
    for table in tables.TABLES:
        seen.clear()
        found = look(ruled.engine, tables.raw_rows, table, "acme", "acme")
        assert not [name for name in found.columns if f"{table}.{name}" in hidden]
        statement, values = seen[-1]
        if ruled.engine.dialect.name == "sqlite":
            explained = f"EXPLAIN QUERY PLAN {statement}"
            plan = look(ruled.engine, lambda c, *asked: c.exec_driver_sql(*asked).all(), explained, values)
            assert all("SCAN" not in str(row) for row in plan), (table, plan)
    sa.event.remove(ruled.engine, "before_cursor_execute", note)
    (row,) = look(ruled.engine, tables.raw_rows, "orgs", "acme", "acme").rows
    assert row[0] == "acme"
    for number in range(tables.MOST_ROWS + 3):
        ruled.sample("acme", T0 + number)
    samples = look(ruled.engine, tables.raw_rows, "usage_samples", "acme", "acme")
    assert (len(samples.rows), samples.whole) == (tables.MOST_ROWS, False)
