"""The plans of the hot statements on PostgreSQL: with a history behind them, they read what is new and what is due."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, write
from drawdown.worker.engine import runner
from drawdown.worker.push import push
from drawdown.worker.tick import tick
from tests.benchmarks.case_tick import world_of
from tests.benchmarks.databases import tidy
from tests.benchmarks.fleet import Fleet, give_credit, place_sandboxes, sealable_at, settle_in, use, window
from tests.conftest import _new_database
from tests.integration.plans import Plans, conditions, explained, plan_of, sequential
from tests.sent import nothing_in_place

HISTORY = 40
"""Windows sealed and settled before the one that is looked at."""
FLEET = Fleet(orgs=100, samples_a_push=5)
LATE_WINDOW = 3


@pytest.fixture(scope="module")
def behind(postgres_server: str, migrated_postgres: str) -> str:
    """A database with a history, its statistics from when tables were empty, to copy. Nothing is connected to it."""
    return _with_history(postgres_server, migrated_postgres, "empty")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("empty", marks=pytest.mark.xdist_group("plans")),
        pytest.param("small", marks=pytest.mark.xdist_group("plans, small")),
        pytest.param("large", marks=pytest.mark.xdist_group("plans")),
    ],
)
def plans(request: pytest.FixtureRequest, postgres_server: str, migrated_postgres: str) -> Iterator[Plans]:
    """Each statement of one tick, and how PostgreSQL would do it: a fresh window, one late sample, a long history.

    By statistics from when tables were empty, from after the first window, or of now (with nothing due and nothing
    dirty, as between two ticks)."""
    if request.param == "small":
        name = _with_history(postgres_server, migrated_postgres, "small")
    else:
        name = request.getfixturevalue("behind")
    engine = connect(_new_database(postgres_server, f"plans_{request.param}", name))
    if request.param == "large":
        tidy(engine)
    _late_sample(engine)
    with explained(engine) as found:
        _tick(engine, HISTORY)
    use(engine, FLEET, HISTORY + 1)
    with explained(engine) as sent, pytest.MonkeyPatch.context() as patched:
        patched.setattr(push, "charge_in_place", nothing_in_place)
        _tick(engine, HISTORY + 1)
    yield {**sent, **found}
    engine.dispose()


def _with_history(server: str, migrated: str, known: str) -> str:
    name = f"history_{known}"
    engine = connect(_new_database(server, name, migrated))
    _without_autovacuum(engine)
    if known == "empty":
        tidy(engine)
    settle_in(engine, FLEET.orgs)
    give_credit(engine, FLEET.orgs)
    place_sandboxes(engine, FLEET.orgs)
    for number in range(HISTORY):
        use(engine, FLEET, number)
        if number == 0 and known == "small":
            _tick(engine, 0)
            tidy(engine)
    _tick(engine, HISTORY - 1)
    use(engine, FLEET, HISTORY)
    engine.dispose()
    return name


def _without_autovacuum(engine: sa.Engine) -> None:
    tables = sa.inspect(engine).get_table_names()
    off = "; ".join(f"ALTER TABLE {table} SET (autovacuum_enabled = false)" for table in tables)
    write(engine, lambda connection: connection.execute(sa.text(off)))


def _tick(engine: sa.Engine, number: int) -> None:
    context, world = world_of(engine, FixedClock(sealable_at(number)))
    report = runner.run(tick(context), world)
    assert report.exit_status == 0, report


def _late_sample(engine: sa.Engine) -> None:
    text = (
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"VALUES ('late', 'org-7', 'box-7', 'cell-0', 1024, 12, {window(LATE_WINDOW)}, {window(HISTORY)})"
    )
    write(engine, lambda connection: connection.execute(sa.text(text)))


def test_seal_scan_uses_indexes_for_fresh_and_late_samples(plans: Plans) -> None:
    plan = plan_of(plans, "WITH moved", "INTO seal_work")
    assert "Bitmap Index Scan on usage_samples_by_ts" in plan
    assert "Bitmap Index Scan on usage_samples_by_arrival" in plan
    assert "usage_samples" not in sequential(plan)


def test_dirty_window_query_uses_org_and_time_index(plans: Plans) -> None:
    plan = plan_of(plans, "INTO seal_work", "FROM dirty_windows", "usage_samples s")
    found = conditions(plan, "usage_samples_by_org_ts")
    assert found, plan
    assert all("org_id =" in one and "ts >=" in one for one in found), found
    assert "usage_samples" not in sequential(plan)


def test_seal_lookup_of_earlier_pushes_uses_primary_key(plans: Plans) -> None:
    plan = plan_of(plans, "INSERT INTO pushes")
    assert plan.count("pushes_pkey") >= 2, "the fresh window's, and the dirty windows'"
    assert "pushes" not in sequential(plan)


def test_claim_of_due_pushes_uses_open_push_index(plans: Plans) -> None:
    for marks in (
        ("UPDATE pushes SET claim_owner", "attempts = ", "ORDER BY p.due_at_ms"),
        ("INSERT INTO attempts", "FROM pushes"),
        ("INSERT INTO charges_work",),
    ):
        plan = plan_of(plans, *marks)
        assert "pushes_open" in plan
        assert "pushes" not in sequential(plan)


def test_charge_in_place_does_not_sort_whole_backlog(plans: Plans) -> None:
    keys = re.findall("Sort Key: (.*)", plan_of(plans, "INSERT INTO charges_work"))
    of_first_charges = [key for key in keys if key.startswith("e.at_ms, e.key")]  # those of one wallet and window
    assert keys == of_first_charges, "sorted, all that is due is read first"


def test_push_settlement_updates_use_primary_keys(plans: Plans) -> None:
    assert "pushes_pkey" in plan_of(plans, "UPDATE pushes SET state = x.state")
    assert "pushes_pkey" in plan_of(plans, "UPDATE pushes SET state = 'accepted'", "charges_work")
    assert "ledger_accounts_pkey" in plan_of(plans, "UPDATE ledger_accounts", "charges_work")
    assert "attempts_pkey" in plan_of(plans, "UPDATE attempts SET finished_ms")


def test_backlog_counts_use_partial_indexes(plans: Plans) -> None:
    plan = plan_of(plans, "AS state, COUNT(*) AS pushes FROM pushes left_over")
    assert "pushes_open" in plan
    plan = plan_of(plans, "SELECT reason, COUNT(*)", "late_quarantine", "sample_conflicts")
    assert "usage_samples_problems" in plan
    assert "usage_samples" not in sequential(plan)


def test_tick_does_not_scan_samples_or_pushes(plans: Plans) -> None:
    whole = {
        text: sequential(plan) & {"usage_samples", "pushes", "attempts", "ledger_entries"}
        for text, plan in plans.items()
    }
    assert {text: tables for text, tables in whole.items() if tables} == {}
