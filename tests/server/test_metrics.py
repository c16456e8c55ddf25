"""What a metric must not hide: a shard behind another, and an alarm behind one that nobody can end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drawdown.ledger import due_changes
from drawdown.ledger.draws import Cost
from drawdown.schema import migrate
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.server.metrics import JOB_KINDS, PROBLEMS, of_workers, render
from drawdown.worker.cluster.lists import Cluster
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.wallets.actions import grant
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


def test_tick_metrics_of_failed_or_missing_shard_are_reported(lone: House) -> None:
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


def test_tick_metrics_of_replaced_shard_are_removed(lone: House) -> None:
    """Also a tick by hand of all of it, between those of shards."""
    now = T0 + DAY_MS
    ended(lone, 0, 255, now - 60 * MINUTE_MS, 1)
    ended(lone, 0, 127, now - 2 * MINUTE_MS, 0)
    assert found(lone, now, "tick_last_exit_status") == {'shard="0-255"': 1, 'shard="0-127"': 0}
    ended(lone, 128, 255, now - MINUTE_MS, 0)
    assert found(lone, now, "tick_last_exit_status") == {'shard="0-127"': 0, 'shard="128-255"': 0}


def test_unticked_buckets_metric_before_first_tick_is_absent(lone: House) -> None:
    assert found(lone, T0, "unticked_buckets") == {}


@pytest.mark.parametrize(("provider", "customer"), [("legacy", "c"), ("none", "c"), ("autumn", "")])
def test_projection_request_that_cannot_be_answered_does_not_age(lone: House, provider: str, customer: str) -> None:
    lone.fleet.write(f"INSERT INTO orgs (org_id, projection_due_ms) VALUES ('acme', {T0})")
    lone.fleet.write(
        "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
        "VALUES ('acme', 0, :provider, :customer, 0, 'a', 'b')",
        {"provider": provider, "customer": customer},
    )
    assert found(lone, T0 + DAY_MS, "projections_due") == {"": 0}
    assert found(lone, T0 + DAY_MS, "projections_oldest_age_seconds") == {"": 0}


def test_projection_request_age_is_reported(lone: House) -> None:
    lone.customer("acme")
    lone.fleet.write(f"UPDATE orgs SET projection_due_ms = {T0}")
    assert found(lone, T0 + WINDOW_MS, "projections_due") == {"": 1}
    assert found(lone, T0 + WINDOW_MS, "projections_oldest_age_seconds") == {"": 300}


def test_quarantined_samples_metric_has_all_problems_at_zero(lone: House) -> None:
    """An alert on a change does not see a series begin."""
    before = found(lone, T0, "quarantined_samples")
    assert set(before.values()) == {0}
    lone.fleet.sample("acme", T0, interval_s=-1)
    after = found(lone, T0, "quarantined_samples")
    assert {name for name in after if after[name] != before[name]} == {'problem="interval_negative"'}


def test_worker_jobs_metric_has_all_states_at_zero() -> None:
    """An alert on a change does not see a series begin."""
    (jobs,) = (one for one in of_workers(Cluster(1, 300, [], [])) if one.name.endswith("worker_jobs"))
    zeros = {(kind, state): 0.0 for kind in JOB_KINDS for state in ("waits", "runs", "failed")}
    assert {(one.labels["kind"], one.labels["state"]): one.value for one in jobs.samples} == zeros


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_quarantine_problems_include_those_of_table(dialect: str) -> None:
    script = Path(migrate.__file__).with_name(f"by_hand.{dialect}.sql").read_text(encoding="utf-8")
    (table,) = re.findall(r"CREATE TABLE usage_samples \(.*?\n\)", script, re.DOTALL)
    assert set(re.findall(r"THEN '(\w+)'", table)) <= set(PROBLEMS)


@pytest.mark.both_databases
def test_reservation_and_settlement_metrics_follow_expiry_and_payout(house: House) -> None:
    """Runs that are over and nobody let go, or that expired; settlements, less what was reversed and released."""
    engine, by = house.fleet.engine, house.fleet.by
    terms = Change(share_ppm=500_000, hold_ms=DAY_MS, threshold_micro=0, takes_clawbacks=True)
    write(engine, lambda c: settlements.set_supplier(c, "pixel", terms, by, new=True))
    write(engine, lambda c: grant(c, "acme", 100 * MICRO, by, key="paid", plan=None))
    names = ("reservations_open", "reservations_overdue", "reservations_overdue_oldest_age_seconds",
             "reservations_expired", "settlements_waiting_credits", "settlement_freezes",
             "settlement_freezes_oldest_age_seconds")  # fmt: skip

    began = house.clock.at_ms

    def told(later_ms: int) -> list[float]:
        return [value for name in names for value in found(house, began + later_ms, name).values()]

    assert told(0) == [0] * 7
    for key in ("e-1", "e-2", "e-3", "e-4"):
        run = Request("acme", 10 * MICRO, supplier="pixel")
        write(engine, lambda c, key=key, run=run: executions.accept(c, key, run, by))  # type: ignore[misc]
    for key in ("e-1", "e-2"):
        write(engine, lambda c, key=key: executions.settle(c, key, Cost(8 * MICRO), by))  # type: ignore[misc]
    write(engine, lambda c: settlements.reverse(c, "e-1", "ticket", MICRO, by))
    write(engine, lambda c: settlements.freeze(c, "e-2", by))
    assert told(executions.LIFE_MS - 1) == [2, 0, 0, 0, 7, 1, 3599.999]
    assert told(executions.LIFE_MS + 5000) == [2, 2, 5, 0, 7, 1, 3605]
    house.clock.at_ms = began + 2 * DAY_MS
    write(engine, lambda c: due_changes.mature_due(c, house.clock.at_ms))
    assert told(2 * DAY_MS)[:4] == [0, 0, 0, 2]
    write(engine, lambda c: executions.settle(c, "e-3", Cost(0), house.fleet.by))
    assert told(2 * DAY_MS)[3] == 1, "settled late"
    write(engine, lambda c: settlements.make_payout(c, "pixel", "2026-01", house.fleet.by))
    assert told(2 * DAY_MS)[4:6] == [4, 1], "the frozen one waits"
    assert told(4 * DAY_MS)[3] == 0
