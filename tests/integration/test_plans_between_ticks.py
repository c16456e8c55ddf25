"""What runs every few seconds, between ticks, on a database with a history: the watch, dispatch and the metrics read
by indexes, on SQLite and PostgreSQL. Tables that only grow are never read from end to end.

`DRAWDOWN_TEST_PLANS=1` has 100,000 organisations, a million samples and a million pushes; else it is a hundredth.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.server.metrics import measure
from drawdown.worker.engine import runner
from drawdown.worker.halts.dispatch import dispatch
from drawdown.worker.orgs import assignments
from drawdown.worker.status.status import status
from drawdown.worker.verdict import effective_balance, holds, project
from drawdown.worker.watch import Watcher, watch
from tests.benchmarks.case_tick import world_of
from tests.benchmarks.databases import tidy
from tests.benchmarks.fleet import give_credit, place_sandboxes, settle_in, window
from tests.conftest import _new_database
from tests.integration.plans import Plans, explained, sequential

WHOLE = os.environ.get("DRAWDOWN_TEST_PLANS") == "1"
ORGS = 100_000 if WHOLE else 1_000
WINDOWS = 10
ROWS = ORGS * WINDOWS
NOW = window(WINDOWS) + 3 * MINUTE_MS
GROWING = {"usage_samples", "pushes", "attempts", "projections", "ticks", "webhooks", "ledger_entries", "halts"}
SERIES = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})",
    "postgresql": "WITH n (i) AS (SELECT generate_series(0, {last}))",
}
AT = f"{window(0)} + i / {ORGS} * {WINDOW_MS}"
KEY = f"{AT}, 'org-' || (i % {ORGS}), 'compute_1gb', 0"

HISTORY = {
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at)": (
        ROWS,
        f"'h' || i, 'org-' || (i % {ORGS}), 'box-' || (i % {ORGS}), 'cell-' || (i % 7), 1024, 12, "
        f"{AT} + i % 1000, {AT}",
    ),
    "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
    "sealed_at_ms, seal_id, state, due_at_ms, attempts, first_attempt_ms, settled_ms)": (
        ROWS,
        f"{KEY}, 'embedded', 'org-' || (i % {ORGS}), 12, 12, 'k' || i, {AT}, 1, "
        f"CASE WHEN i % 10000 = 7 THEN 'rejected' ELSE 'accepted' END, 0, 1, {AT}, {AT}",
    ),
    "INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty, finished_ms, "
    "outcome)": (ROWS, f"{KEY}, 1, {AT} + 1000, 'w', 12, {AT} + 1000 + i % 1000, 'accepted'"),
    "INSERT INTO projections (org_id, read_ms, at_ms, is_halted, reason)": (
        ROWS,
        f"'org-' || (i % {ORGS}), {AT}, {AT}, i % 2 = 1, CASE WHEN i % 10000 = 3 THEN 'estimate_wrong' END",
    ),
    "INSERT INTO ticks (worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status)": (
        ROWS // 10,
        f"'w', 0, 255, {window(0)} + i, {window(0)} + i, 0",
    ),
    "INSERT INTO webhooks (provider, event_id, received_ms, body_sha256, state, attempts)": (
        ROWS // 10,
        f"'autumn', 'e' || i, {window(0)} - {WINDOW_MS} * 100 + i, '', 'done', 1",
    ),
    "INSERT INTO halts (org_id, cell_id, halted_at, acked_at_ms)": (
        ROWS // 10,
        f"'org-' || i, 'cell-' || (i % 7), {window(0)} - {WINDOW_MS}, {window(0)}",
    ),
}
PRESENT = (
    # One in fifty uses something now; one in a hundred is halted, some of them not told yet.
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    f"SELECT 'n' || org_id, org_id, 'box-' || substr(org_id, 5), 'cell-1', 1024, 12, {NOW} - 30000, {NOW} - 20000 "
    "FROM orgs WHERE bucket < 5",
    f"UPDATE orgs SET balance_micro = 1000, balance_read_ms = {NOW} - 60000, projection_read_ms = {NOW} - 60000",
    f"UPDATE orgs SET is_halted = TRUE, halted_at = {NOW} - 90000, halt_reason = 'estimate' WHERE bucket IN (9, 10)",
    f"UPDATE orgs SET unread_since_ms = {NOW} WHERE bucket = 20",
)


@dataclass
class Seen:
    """What one kind of database did."""

    kind: str
    plans: Plans


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    kind: str = request.param
    if kind == "postgresql":
        server, migrated = (request.getfixturevalue(name) for name in ("postgres_server", "migrated_postgres"))
        url = _new_database(server, "plans_between", migrated)
    else:
        path = tmp_path_factory.mktemp("plans") / "p.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        url = f"sqlite:///{path}"
    engine = connect(url)
    _fill(engine)
    tidy(engine)
    context, world = world_of(engine, FixedClock(NOW))
    works: dict[str, Callable[[], object]] = {
        "dispatch": lambda: runner.run(dispatch(context), world),
        "watch": lambda: runner.run(watch(context, Watcher()), world),
        "metrics": lambda: len(read(engine, lambda c: list(measure(c, NOW)))),
        "status": lambda: read(engine, lambda c: status(c, NOW)).headline.verdict,
    }
    with explained(engine) as plans:
        for what, work in works.items():
            began = time.monotonic()
            done = work()
            print(f"\n{kind}, {ROWS:,} samples: {what} {time.monotonic() - began:.2f} s {done}", end="")
    yield Seen(kind, plans)
    engine.dispose()
    Path(str(engine.url.database)).unlink(missing_ok=True)


def _fill(engine: sa.Engine) -> None:
    settle_in(engine, ORGS, window(WINDOWS))
    give_credit(engine, ORGS)
    place_sandboxes(engine, ORGS)
    series = SERIES[engine.dialect.name]
    for insert, (rows, values) in HISTORY.items():
        text = f"{insert} {series.format(last=rows - 1)} SELECT {values} FROM n"
        if engine.dialect.name == "sqlite":
            text = f"{insert} SELECT {values} FROM ({series.format(last=rows - 1)} SELECT i FROM n) n"
        _run(engine, text)
    cursor = "SELECT COALESCE(MAX(arrival), 0) + 1 FROM usage_samples"
    _run(engine, f"UPDATE buckets SET cursor = ({cursor})")
    for text in PRESENT:
        _run(engine, text)


def _run(engine: sa.Engine, text: str) -> None:
    given = text.replace("%", "%%") if engine.dialect.paramstyle in ("format", "pyformat") else text
    write(engine, lambda connection: connection.exec_driver_sql(given))


@pytest.mark.both_databases
def test_growing_tables_are_not_scanned_between_ticks(seen: Seen) -> None:
    whole = {text: sequential(plan) & GROWING for text, plan in seen.plans.items()}
    assert {text: tables for text, tables in whole.items() if tables} == {}
    assert len(seen.plans) > 40


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_assignment_query_materializes_mapping_segments(engine: sa.Engine) -> None:
    """Of an assignment, under the seal's lock: as rows of a function it was read again for each sample."""
    values = {"segments": "[]", "unseen": "[]", "org_id": "acme", "start_ms": 0}
    text = assignments.SQL.text("waiting", "sqlite")
    with engine.connect() as connection:
        plan = [row.detail for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}"), values)]
    assert "MATERIALIZE segments" in plan


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["unsealed", "unseen_pushes"])
def test_estimate_query_looks_up_assignments_by_org(engine: sa.Engine, name: str) -> None:
    """It went through all whom the provider bills, once for each thousand that were asked about."""
    values = {"org_ids": [], "segments": [], "provider": "embedded", "since_ms": 0, "now_ms": 0, "lately_ms": 0}
    begun = {"begun_ms": 0, "ahead_ms": 0, "unsampled_s": 0, "changes": 1}
    part = effective_balance.SQL.part(name, {**values, **begun, "just_now_ms": 0})
    statement, bound = effective_balance.SQL.reading("sqlite", part)
    with engine.connect() as connection:
        plan = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {statement.clause.text}"), bound)
        found = [row.detail for row in plan if "assignments" in row.detail]
    assert found and all("(org_id=? AND start_ms<?)" in detail for detail in found)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["running", "in_turn"])
def test_next_org_to_read_is_found_in_index_order(engine: sa.Engine, name: str) -> None:
    """Sorted, all who were asked for would be read for each few that are: of 100,000, for 160 ms in place of 4."""
    values = {"now_ms": 1, "lo": 0, "hi": 255, "provider": "embedded", "at_most": 64, "org_id": "", "passed": []}
    statement, bound = project.SQL.reading("sqlite", project.SQL.part(name, values))
    with engine.connect() as connection:
        rows = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {statement.clause.text}"), bound)
        plan = [row.detail for row in rows]
    assert any("SEARCH o USING INDEX orgs_" in line for line in plan)
    assert not any("TEMP B-TREE" in line for line in plan), plan


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_execution_sandboxes_are_looked_up_by_automatic_index(engine: sa.Engine) -> None:
    """What rows are taken out of decides whether SQLite makes an index on them: without one, each sample of an
    organisation went through the sandboxes of all its runs, 2,000 of them for 6 s in place of 80 ms."""
    values = {"orgs": [{"org_id": "acme", "from_ms": 0}], "runs": [{"reservation": "r"}]}
    statement, bound = holds.SQL.reading("sqlite", holds.SQL.part("used", values))
    with engine.connect() as connection:
        rows = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {statement.clause.text}"), bound)
        plan = [row.detail for row in rows]
    assert any(line.startswith("SEARCH n USING AUTOMATIC") for line in plan), plan
