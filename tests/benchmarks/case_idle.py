"""A tick that has nothing to do, beside a bare pass over all organisations: it should not touch them one by one."""

from __future__ import annotations

from itertools import count

import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.worker.engine import runner
from drawdown.worker.tick import tick
from tests.benchmarks.case_tick import run_tick, world_of
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.fleet import Fleet, clock, give_credit, settle_in, use
from tests.benchmarks.measure import Result, compared, stopwatch

PASS = "SELECT org_id, billing_provider, is_halted, max_concurrent_sandboxes FROM orgs"


def run(databases: Databases, kind: str, orgs: int, runs: int) -> Result:
    """Each organisation used something in one window, long settled; since then nobody used anything."""
    engine = databases.new(kind)
    fleet = Fleet(orgs, samples_a_push=1)
    settle_in(engine, fleet.orgs)
    give_credit(engine, fleet.orgs)
    use(engine, fleet, 0)
    tidy(engine)
    report, _ = run_tick(engine, 0)
    assert report.accepted == fleet.pushes, report
    run_tick(engine, 1)
    tidy(engine)
    windows = count(2)
    figures = compared(
        lambda: _idle_tick(engine, next(windows)),
        lambda: stopwatch(lambda: _bare_pass(engine, fleet.orgs)),
        runs,
        goal=1.0,
        what=("idle tick", "bare pass"),
    )
    databases.drop(engine)
    return Result(
        case="idle",
        database=kind,
        compares=f"a tick with nothing to do, {fleet.orgs:,} organisations and {fleet.pushes:,} settled pushes, beside "
        "reading each organisation's row once",
        figures=figures,
        baseline=PASS,
        totals={"organisations": fleet.orgs, "pushes": fleet.pushes},
    )


def _idle_tick(engine: sa.Engine, number: int) -> float:
    context, world = world_of(engine, clock(number))

    def once() -> None:
        report = runner.run(tick(context), world)
        assert (report.sealed, report.accepted, report.exit_status) == (0, 0, 0), report

    return stopwatch(once)


def _bare_pass(engine: sa.Engine, orgs: int) -> None:
    rows = read(engine, lambda connection: connection.exec_driver_sql(PASS).fetchall())
    assert len(rows) == orgs
