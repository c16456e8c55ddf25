"""Autovacuum by its own settings, and by ours beside it (worker/status/upkeep): room, and what dead rows cost.

python -m tests.benchmarks.vacuumed [SAMPLES_A_DAY] [DAYS]: tables that grow, each twice in one server, without
triggers. Each has 36 days; then each day adds one to both, and prunes one of the samples. Between two of them
autovacuum comes to its end: a day has time for it.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import connect
from drawdown.worker.status.tables import SETTINGS, SHARE
from tests.benchmarks.databases import databases
from tests.benchmarks.grown import SAMPLES_A_PUSH, execute

KEPT_DAYS: Final = 36
BETWEEN_S: Final = 2.5
"""Until autovacuum has looked at all tables; it is to look each second."""
AT_WORK: Final = "SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
KINDS: Final = ("its own", "ours")
NAMES: Final = {"its own": "theirs_{}", "ours": "ours_{}"}
DAY: Final = {
    "usage_samples": """
INSERT INTO {table} (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at)
SELECT md5({day} || '-' || i), 'org-' || (i % 1000), 'box-1', 'cell-1', 1024, 12, {day} * 86400000::bigint + i, 0
FROM generate_series(1, {samples}) i;
DELETE FROM {table} WHERE ts < ({day} - {kept}) * 86400000::bigint
""",
    "pushes": """
INSERT INTO {table} (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key,
    sealed_at_ms, seal_id, state, due_at_ms)
SELECT {day} * 86400000::bigint + i / 100 * 300000, 'org-' || i, 'compute', 0, 'autumn', 'org-' || i, 60, 60,
    'usage:org-' || i || ':' || {day}, 0, 0, 'due', {day} * 86400000::bigint + i
FROM generate_series(1, {pushes}) i;
UPDATE {table} SET claim_owner = 'bench/1', attempts = 1, first_attempt_ms = 1, due_at_ms = due_at_ms + 60000
WHERE state = 'due';
UPDATE {table} SET state = 'accepted', settled_ms = 1, claim_owner = NULL WHERE state = 'due'
""",
    "attempts": """
INSERT INTO {table} (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty)
SELECT {day} * 86400000::bigint + i / 100 * 300000, 'org-' || i, 'compute', 0, 1, {day} * 86400000::bigint + i,
    'bench/1', 60 FROM generate_series(1, {pushes}) i;
UPDATE {table} SET finished_ms = 1, outcome = 'accepted', attempts_then = 1 WHERE finished_ms IS NULL
""",
    "ledger_entries": """
INSERT INTO {table} (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason)
SELECT 'usage:' || {day} || ':' || i, 'usage', 'wallet:org-' || i, 'revenue:compute', 60, 'compute', 60,
    {day} * 86400000::bigint, 0, 'drawdown', 'usage' FROM generate_series(1, {pushes}) i
""",
}
SEEN: Final = """
SELECT pg_total_relation_size(c.oid), s.n_dead_tup, 100.0 * c.relallvisible / GREATEST(c.relpages, 1),
    s.autovacuum_count FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.relname = '{table}'
"""
OPEN: Final = (
    "SELECT COUNT(*) FROM {table} WHERE provider = 'autumn' AND state IN ('due', 'queued', 'in_doubt', 'rejected')"
)


def main() -> None:
    """Prints, for each table and each kind of settings, the most and the least of the days."""
    samples, days = (int(one) for one in (*sys.argv[1:], *("20000", "16")[len(sys.argv) - 1 :]))
    with databases(("postgresql",)) as made:
        with connect(made.server).connect().execution_options(isolation_level="AUTOCOMMIT") as server:
            server.exec_driver_sql("ALTER SYSTEM SET autovacuum_naptime = '1s'")
            server.exec_driver_sql("ALTER SYSTEM SET autovacuum_vacuum_cost_delay = 0")
            server.exec_driver_sql("SELECT pg_reload_conf()")
        engine = made.new("postgresql")
        for table in DAY:
            for kind in KINDS:
                _make(engine, table, kind, samples)
        found = [_seen_after(engine, KEPT_DAYS + number, samples) for number in range(days)]
    for table in DAY:
        for kind in KINDS:
            mbs, dead, visible, runs, blocks = zip(*(one[table, kind] for one in found), strict=True)
            most = f"at most {max(mbs):.1f} MB, {max(dead):,} dead rows, {max(blocks)} blocks for what is open"
            least = f"at least {min(visible):.0f} % all visible"
            print(f"{table}, {kind}: {most}; {least}; vacuumed {runs[-1] - runs[0]} times in {days} days")


def _make(engine: sa.Engine, table: str, kind: str, samples: int) -> None:
    name = NAMES[kind].format(table)
    execute(engine, f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for day in range(KEPT_DAYS):
            _day(engine, table, name, day, samples)
            connection.exec_driver_sql(f"VACUUM (FREEZE, ANALYZE) {name}")  # else there would be room for years
        if kind == "ours":
            ours = ", ".join(f"{setting} = {SHARE}" for setting in SETTINGS)
            connection.exec_driver_sql(f"ALTER TABLE {name} SET ({ours})")


def _day(engine: sa.Engine, table: str, name: str, day: int, samples: int) -> None:
    values = {"table": name, "day": day, "samples": samples, "pushes": samples // SAMPLES_A_PUSH, "kept": KEPT_DAYS - 1}
    for text in DAY[table].split(";\n"):
        execute(engine, text.format(**values))


def _seen_after(engine: sa.Engine, day: int, samples: int) -> dict[tuple[str, str], tuple[float, int, float, int, int]]:
    """One more day; what there is of each once autovacuum had its time."""
    for table in DAY:
        for kind in KINDS:
            _day(engine, table, NAMES[kind].format(table), day, samples)
    time.sleep(BETWEEN_S)
    _until_idle(engine)
    found = {}
    with engine.connect() as connection:
        for table in DAY:
            for kind in KINDS:
                name, blocks = NAMES[kind].format(table), 0
                size, dead, visible, runs = connection.exec_driver_sql(SEEN.format(table=name)).one()
                if table == "pushes":
                    plan = connection.exec_driver_sql(
                        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {OPEN.format(table=name)}"
                    )
                    top = plan.scalar_one()[0]["Plan"]
                    blocks = int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])
                found[table, kind] = (size / 1e6, int(dead), float(visible), int(runs), blocks)
    return found


def _until_idle(engine: sa.Engine) -> None:
    """Several looks in turn that find nobody vacuum."""
    idle = 0
    while idle < 15:
        with engine.connect() as connection:
            idle = 0 if connection.exec_driver_sql(AT_WORK).scalar_one() else idle + 1
        time.sleep(0.1)


if __name__ == "__main__":
    main()
