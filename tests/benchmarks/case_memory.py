"""Draining a long backlog in bounded memory; and, of so many samples, sealing one window's."""

from __future__ import annotations

import json
import subprocess
import sys

import sqlalchemy as sa

from tests.benchmarks import case_seal
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.fleet import Fleet, give_credit, sealable_at, settle_in, use
from tests.benchmarks.measure import Figure, Result

GOAL_MB = 300
WINDOWS = 10


def run(databases: Databases, kind: str, fleet: Fleet, runs: int) -> list[Result]:
    """Ten windows drained by one tick, then the last of them sealed again and again."""
    engine = databases.new(kind)
    settle_in(engine, fleet.orgs)
    give_credit(engine, fleet.orgs)
    for number in range(WINDOWS):
        use(engine, fleet, number)
    tidy(engine)
    results = [_drain(engine, fleet), case_seal.compare(engine, fleet, runs, WINDOWS)]
    databases.drop(engine)
    return results


def _drain(engine: sa.Engine, fleet: Fleet) -> Result:
    engine.dispose()
    asked = [sys.executable, "-m", "tests.benchmarks.drain", url_of(engine.url), str(sealable_at(WINDOWS - 1))]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    pushes = fleet.pushes * WINDOWS
    assert (said["sealed"], said["accepted"]) == (pushes, pushes), said
    with engine.connect() as connection:
        charged = connection.execute(sa.text("SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'")).scalar()
    assert int(charged or 0) == fleet.seconds * WINDOWS, charged
    return Result(
        case="memory",
        database=engine.dialect.name,
        compares=f"peak memory of the process that drains {fleet.samples * WINDOWS:,} samples in one tick, {pushes:,} "
        "pushes settled",
        figures=[Figure("peak memory", "MB", [said["rss_mb"]], GOAL_MB)],
        totals={"samples": fleet.samples * WINDOWS, "pushes": pushes, "seconds": fleet.seconds * WINDOWS},
    )
