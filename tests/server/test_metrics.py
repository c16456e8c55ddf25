"""What a metric must not hide: a shard behind another, and an alarm behind one that nobody can end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drawdown.schema import migrate
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.server.metrics.metrics import PROBLEMS, render
from tests.server.house import House
from tests.world import T0


def found(house: House, now_ms: int, name: str) -> dict[str, float]:
    """A metric's values by their labels, as they are written."""
    lines = render(house.fleet.engine, now_ms).decode().splitlines()
    matches = [re.fullmatch(rf"drawdown_{name}(?:{{(.*)}})? (\S+)", line) for line in lines]
    return {match[1] or "": float(match[2]) for match in matches if match is not None}


def ended(house: House, lo: int, hi: int, finished_ms: int, status: int) -> None:
    house.fleet.write(
        "INSERT INTO ticks (worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status) "
        "VALUES ('w', :lo, :hi, :started, :finished, :status)",
        {"lo": lo, "hi": hi, "started": finished_ms - 1000, "finished": finished_ms, "status": status},
    )


def test_a_shard_that_fails_or_is_missing_is_not_hidden_by_another(lone: House) -> None:
    now = T0 + DAY_MS
    ended(lone, 0, 127, now - 60 * MINUTE_MS, 0)
    ended(lone, 0, 127, now - 50 * MINUTE_MS, 1)
    ended(lone, 128, 255, now - MINUTE_MS, 75)
    low, high = 'shard="0-127"', 'shard="128-255"'
    assert found(lone, now, "tick_last_exit_status") == {low: 1, high: 75}
    ends = found(lone, now, "tick_last_end_timestamp_seconds")
    assert ends == {low: (now - 50 * MINUTE_MS) / 1000, high: (now - MINUTE_MS) / 1000}
    assert found(lone, now, "tick_last_success_timestamp_seconds")[low] == (now - 60 * MINUTE_MS) / 1000
    assert found(lone, now, "tick_duration_seconds") == {low: 1, high: 1}
    assert found(lone, now, "unticked_buckets") == {"": 0}
    later = now + DAY_MS - 30 * MINUTE_MS
    assert found(lone, later, "tick_last_exit_status") == {high: 75}
    assert found(lone, later, "unticked_buckets") == {"": 128}, "its series has ended, and it is still told"


def test_a_shard_that_others_have_replaced_alarms_nobody(lone: House) -> None:
    """Also a tick by hand of all of it, between those of shards."""
    now = T0 + DAY_MS
    ended(lone, 0, 255, now - 60 * MINUTE_MS, 1)
    ended(lone, 0, 127, now - 2 * MINUTE_MS, 0)
    assert found(lone, now, "tick_last_exit_status") == {'shard="0-255"': 1, 'shard="0-127"': 0}
    ended(lone, 128, 255, now - MINUTE_MS, 0)
    assert found(lone, now, "tick_last_exit_status") == {'shard="0-127"': 0, 'shard="128-255"': 0}


def test_where_nobody_ever_ticked_no_tick_is_missing(lone: House) -> None:
    assert found(lone, T0, "unticked_buckets") == {}


@pytest.mark.parametrize(("provider", "customer"), [("legacy", "c"), ("none", "c"), ("autumn", "")])
def test_an_ask_that_nobody_can_answer_does_not_age(lone: House, provider: str, customer: str) -> None:
    lone.fleet.write(f"INSERT INTO orgs (org_id, projection_due_ms) VALUES ('acme', {T0})")
    lone.fleet.write(
        "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
        "VALUES ('acme', 0, :provider, :customer, 0, 'a', 'b')",
        {"provider": provider, "customer": customer},
    )
    assert found(lone, T0 + DAY_MS, "projections_due") == {"": 0}
    assert found(lone, T0 + DAY_MS, "projections_oldest_age_seconds") == {"": 0}


def test_an_ask_that_waits_ages(lone: House) -> None:
    lone.customer("acme")
    lone.fleet.write(f"UPDATE orgs SET projection_due_ms = {T0}")
    assert found(lone, T0 + WINDOW_MS, "projections_due") == {"": 1}
    assert found(lone, T0 + WINDOW_MS, "projections_oldest_age_seconds") == {"": 300}


def test_each_problem_of_a_sample_is_told_before_there_is_one(lone: House) -> None:
    """An alert on a change does not see a series begin."""
    before = found(lone, T0, "quarantined_samples")
    assert set(before.values()) == {0}
    lone.fleet.sample("acme", T0, interval_s=-1)
    after = found(lone, T0, "quarantined_samples")
    assert {name for name in after if after[name] != before[name]} == {'problem="interval_negative"'}


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_problems_are_those_of_the_table(dialect: str) -> None:
    script = Path(migrate.MIGRATIONS / "versions" / f"0001.{dialect}.sql").read_text(encoding="utf-8")
    (table,) = re.findall(r"CREATE TABLE usage_samples \(.*?\n\)", script, re.DOTALL)
    assert set(re.findall(r"THEN '(\w+)'", table)) <= set(PROBLEMS)
