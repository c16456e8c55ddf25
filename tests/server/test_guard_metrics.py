"""What the guard, checks, backfills and event types come to as metrics; whatever people name, labels are few."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.metrics import MOST_TYPES, render
from drawdown.server.process_metrics import GuardCalls, guard_calls
from drawdown.worker.checks.checks import keep
from drawdown.worker.guard.lists import MOST_NAMES, guard_figures
from drawdown.worker.usage.backfills import open_backfill
from tests.integration.guarding import Guarded
from tests.integration.telling_events import event, told
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key
from tests.server.test_guard import _post
from tests.server.test_watched import value
from tests.world import Fleet


@pytest.fixture
def guarded(engine: sa.Engine) -> Guarded:
    return Guarded(engine)


def test_guard_decisions_and_latency_are_reported_in_metrics(house: House) -> None:
    give(house, "acme")
    guarded = Guarded(house.fleet.engine, house.fleet)
    guarded.limit("look", 2)
    make_key(house, "app", "guard")

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        order: dict[str, object] = {"org_id": "acme", "metric": "look"}
        await _post(program, "check", order)
        for key in ("a", "a", "b", "c"):
            assert (await _post(program, "consume", {"key": key, **order})).status_code == 200
        assert (await _post(program, "consume", {"key": "d", **order, "metric": "none"})).status_code == 404
        text = (await caller.get("/metrics")).text
        of = 'enforced="{}",metric="look"'
        for call, decision, enforced, times in (
            ("check", "allow", "true", 1), ("consume", "allow", "true", 1), ("consume", "warn", "true", 1),
            ("consume", "block", "true", 1),
        ):  # fmt: skip
            name = f'guard_decisions_total{{call="{call}",decision="{decision}",{of.format(enforced)}}}'
            assert value(text, name) == times, (name, text)
        assert text.count("drawdown_guard_decisions_total{") == 4, "what was asked again is decided once"
        assert value(text, 'guard_seconds_count{call="consume"}') == 4
        assert value(text, 'guard_seconds_bucket{call="consume",le="+Inf"}') == 4
        assert value(text, 'guard_seconds_count{call="settle"}') == 0
        assert value(text, 'guard_denied{enforced="true",metric="look"}') == 1
        assert value(text, 'guard_denied{enforced="false",metric="look"}') == 0

    served(house, work)


def test_guard_metrics_label_count_is_bounded() -> None:
    calls = GuardCalls()
    for number in range(3 * MOST_NAMES):
        calls.answered("consume", {"metric": f"m{number}", "decision": "allow", "enforced": False, "repeated": False})
    calls.answered("settle", {"metric": "m1", "decision": "allow", "enforced": False, "repeated": False})
    calls.timed("check", 0.0011)
    calls.timed("check", 9.0)
    decisions, took = guard_calls(calls)
    assert len(decisions.samples) == MOST_NAMES + 1
    assert {sample.value for sample in decisions.samples if sample.labels["metric"] == "other"} == {2 * MOST_NAMES}
    found = {sample.labels["le"]: sample.value for sample in took.samples
             if sample.name.endswith("_bucket") and sample.labels["call"] == "check"}  # fmt: skip
    assert (found["0.001"], found["0.0025"], found["1.0"], found["+Inf"]) == (0, 1, 1, 2)


def test_guard_metrics_report_degraded_uses_and_pending_overrides(guarded: Guarded) -> None:
    fleet = guarded.fleet
    fleet.assign("far", provider="autumn", from_ms=fleet.clock.at_ms)
    guarded.metric("idea", price_micro=5, fails_open=True)
    guarded.limit("idea", 100)
    guarded.limit("look", 1)
    for _ in range(2):
        assert guarded.consume("idea", 3, org="far").degraded
    guarded.consume("look", 2)
    guarded.override("look", 9, asked=True)
    guarded.override("idea", 9, ends_ms=guarded.now + 7 * DAY_MS + MINUTE_MS)
    guarded.override("byte", 9, ends_ms=guarded.now + 7 * DAY_MS + MINUTE_MS + 1)
    text = render(fleet.engine, guarded.now + MINUTE_MS).decode()
    for name, expected in {
        'guard_fail_open_uses{metric="idea"}': 2,
        'guard_fail_open_units{metric="idea"}': 6,
        'guard_fail_open_uses{metric="look"}': 0,
        'guard_denied{enforced="true",metric="look"}': 1,
        'guard_overrides{state="waiting"}': 1,
        'guard_overrides{state="ending"}': 1,
        "guard_overrides_oldest_age_seconds": 60,
    }.items():
        assert value(text, name) == expected, f"{name}\n{text}"
    later = render(fleet.engine, guarded.now + DAY_MS + MINUTE_MS).decode()
    assert value(later, 'guard_fail_open_uses{metric="idea"}') == 0, "of a day"
    assert value(later, 'guard_denied{enforced="true",metric="look"}') == 0, "of an hour"


@pytest.mark.both_databases
def test_guard_degraded_uses_query_uses_index(guarded: Guarded) -> None:
    guarded.limit("look", 1)
    plan = "EXPLAIN QUERY PLAN " if guarded.fleet.engine.dialect.name == "sqlite" else "EXPLAIN "
    asked = "SELECT COUNT(*) FROM guard_uses u WHERE u.metric = 'look' AND u.at_ms >= 5 AND u.degraded"
    switch = "SET LOCAL enable_seqscan = off"

    def explained(connection: sa.Connection) -> str:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text(switch))
        return str(connection.execute(sa.text(plan + asked)).all())

    assert "guard_uses_fail_open" in read(guarded.fleet.engine, explained)


def test_guard_figures_beyond_named_metrics_are_grouped_as_other(guarded: Guarded) -> None:
    for number in range(MOST_NAMES):
        guarded.metric(f"a{number:03}")
        guarded.limit(f"a{number:03}", 1)
    guarded.limit("look", 1)
    for metric in ("look", "idea", "a001"):
        guarded.consume(metric, 2)
    found = guarded.read(lambda c: guard_figures(c, guarded.now, 0, 0, 0))
    assert len(found.denied) == 2 * (MOST_NAMES + 1) and len(found.fail_open) == MOST_NAMES + 1
    assert (found.denied["a001", True], found.denied["other", True]) == (1, 2)


def test_unmapped_event_type_metrics_are_bounded_and_grouped_as_other(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=fleet.clock.at_ms)
    many = [event(f"e{number}", number, event_type=f"type.{number:02}") for number in range(1, MOST_TYPES + 4)]
    told(fleet, *many, event("o", 1000, event_type="other"))
    fleet.tick_windows(2)
    text = render(engine, fleet.clock.at_ms).decode()
    found = [line for line in text.splitlines() if line.startswith("drawdown_unmapped_units{")]
    assert len(found) == len(set(found)) == MOST_TYPES
    assert value(text, 'unmapped_units{event_type="type.23"}') == 23
    assert value(text, 'unmapped_units{event_type="other"}') == 1000 + 1 + 2 + 3 + 4
    assert value(text, 'pending_units{reason="no_mapping"}') == 1000 + sum(range(1, MOST_TYPES + 4))


def test_check_and_backfill_metrics_report_age(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=fleet.clock.at_ms - DAY_MS)
    now = fleet.clock.at_ms
    text = render(engine, now).decode()
    for check in ("guard", "vendors"):
        for figure in ("check_off", "check_alerts", "check_age_seconds"):
            assert value(text, f'{figure}{{check="{check}"}}') == 0
    assert (value(text, "backfills_open"), value(text, "backfills_oldest_age_seconds")) == (0, 0)
    write(engine, lambda c: keep(c, "guard", now, off=3, alerts=2))
    write(engine, lambda c: open_backfill(c, "june", "acme", now - DAY_MS, now, fleet.by))
    text = render(engine, now + MINUTE_MS).decode()
    assert value(text, 'check_off{check="guard"}') == 3 and value(text, 'check_alerts{check="guard"}') == 2
    assert value(text, 'check_age_seconds{check="guard"}') == 60
    assert (value(text, "backfills_open"), value(text, "backfills_oldest_age_seconds")) == (1, 60)
