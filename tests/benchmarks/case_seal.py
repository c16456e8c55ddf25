"""The seal beside the least that any program would have to do: the same GROUP BY, and its rows inserted."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from drawdown.schema.database import write
from drawdown.schema.tables.outbox import pushes
from drawdown.worker.engine.shard import Shard
from drawdown.worker.seal.seal import SealRequest, seal
from tests.benchmarks.databases import Databases, indexes_of, tidy
from tests.benchmarks.fleet import Fleet, sealable_at, settle_in, use, window
from tests.benchmarks.measure import Result, compared, stopwatch

GOAL = 1.2

BASELINE = """
INSERT INTO baseline (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key,
    sealed_at_ms, seal_id, state, due_at_ms)
SELECT ts - ts % 300000, org_id, 'compute_' || (memory_mb / 1024) || 'gb', 0, 'embedded', org_id,
    SUM(interval_s), SUM(interval_s),
    'usage:' || org_id || ':' || (ts - ts % 300000) || ':' || 'compute_' || (memory_mb / 1024) || 'gb',
    {now}, 1, 'due', {now}
FROM usage_samples WHERE problem IS NULL AND ts >= {start} AND ts < {end}
GROUP BY org_id, ts - ts % 300000, memory_mb
"""


def run(databases: Databases, kind: str, fleet: Fleet, runs: int, windows: int = 1) -> Result:
    """Seal the last of `windows` windows, those before it sealed already."""
    engine = databases.new(kind)
    settle_in(engine, fleet.orgs, window(0))
    for number in range(windows):
        use(engine, fleet, number)
    tidy(engine)
    for number in range(windows - 1):
        _seal(engine, number)
    result = compare(engine, fleet, runs, windows)
    databases.drop(engine)
    return result


def compare(engine: sa.Engine, fleet: Fleet, runs: int, windows: int) -> Result:
    """The seal of the last window beside the baseline, in turn."""
    last = windows - 1
    text = BASELINE.format(now=sealable_at(last), start=window(last), end=window(last + 1))
    figures = compared(
        lambda: _timed_seal(engine, last),
        lambda: _timed_baseline(engine, text),
        runs,
        goal=GOAL,
        what=("seal", "baseline"),
    )
    _seal(engine, last, again=True)
    _check(engine, fleet, last)
    return Result(
        case="seal" if windows == 1 else "seal_of_many",
        database=engine.dialect.name,
        compares=f"sealing {fleet.samples:,} new samples of {fleet.samples * windows:,} into {fleet.pushes:,} pushes, "
        "committed, beside the same GROUP BY with its rows inserted, committed",
        figures=figures,
        baseline=f"{text.strip()}\n  {indexes_of(engine, 'usage_samples')}\n  {indexes_of(engine, 'baseline')}; "
        "the columns of pushes, no triggers",
        totals={"samples": fleet.samples, "pushes": fleet.pushes, "seconds": fleet.seconds},
    )


def _seal(engine: sa.Engine, number: int, *, again: bool = False) -> None:
    if again:
        _forget(engine, number)
    request = SealRequest(Shard(), window(number + 1), sealable_at(number))
    write(engine, lambda connection: seal(connection, request))


def _timed_seal(engine: sa.Engine, number: int) -> float:
    _forget(engine, number)
    tidy(engine)
    return stopwatch(lambda: _seal(engine, number))


def _timed_baseline(engine: sa.Engine, text: str) -> float:
    table = pushes.to_metadata(sa.MetaData(), name="baseline")
    table.constraints = {one for one in table.constraints if isinstance(one, sa.PrimaryKeyConstraint)}

    def empty(connection: sa.Connection) -> None:
        connection.exec_driver_sql("DROP TABLE IF EXISTS baseline")
        connection.execute(CreateTable(table))

    write(engine, empty)
    tidy(engine)
    return stopwatch(lambda: write(engine, lambda connection: connection.execute(sa.text(_bound_free(text)))))


def _bound_free(text: str) -> str:
    return text.replace(":", "\\:")


def _forget(engine: sa.Engine, number: int) -> None:
    """Undo the seal of the last window, which the guards forbid: for the moment of it they are put aside."""
    values = {"start": window(number)}
    undo = (
        "DELETE FROM pushes WHERE window_ms >= :start",
        "UPDATE buckets SET watermark_ms = :start, "
        "cursor = (SELECT MIN(arrival) FROM usage_samples WHERE ts >= :start)",
    )

    def work(connection: sa.Connection) -> None:
        put_back = _put_guards_aside(connection)
        for text in undo:
            connection.execute(sa.text(text), values)
        for text in put_back:
            connection.exec_driver_sql(text)

    write(engine, work)


def _put_guards_aside(connection: sa.Connection) -> list[str]:
    """Returns the statements that put them back."""
    if connection.dialect.name == "postgresql":
        for table in ("pushes", "buckets"):
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        return [f"ALTER TABLE {table} ENABLE TRIGGER ALL" for table in ("pushes", "buckets")]
    found = connection.execute(
        sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ('pushes', 'buckets')")
    ).all()
    for name, _ in found:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    return [str(text) for _, text in found]


def _check(engine: sa.Engine, fleet: Fleet, number: int) -> None:
    """Both did the same work: equal rows, and the totals known beforehand."""
    with engine.connect() as connection:
        equal = connection.execute(
            sa.text(
                "SELECT COUNT(*), SUM(p.sealed_qty) FROM pushes p JOIN baseline b ON b.window_ms = p.window_ms "
                "AND b.org_id = p.org_id AND b.feature = p.feature AND b.revision = p.revision "
                "WHERE b.sealed_qty = p.sealed_qty AND b.key = p.key AND p.state = b.state "
                "AND p.customer_id = b.customer_id AND p.window_ms >= :start"
            ),
            {"start": window(number)},
        ).one()
        rows = connection.execute(
            sa.text("SELECT COUNT(*) FROM pushes WHERE window_ms >= :start"), {"start": window(number)}
        ).scalar_one()
    assert (equal[0], int(equal[1]), rows) == (fleet.pushes, fleet.seconds, fleet.pushes), f"{equal} of {rows}"
