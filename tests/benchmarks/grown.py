"""A PostgreSQL that has metered for 36 days: organisations, samples, pushes, attempts and entries, made in SQL.

Guarantee: what is there is what as many days of ticks would have left: `verify` finds all of it right. Samples have ids
at random, as UUIDs are; 25 of them make a push. Everything before the day that follows is sealed and charged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs import assignments
from drawdown.worker.wallets import actions as credit
from tests.benchmarks.fleet import CREDIT_MICRO, START_MS, window

DAYS: Final = 36
"""One more than a sample may be late: the first of them may be pruned."""
WINDOWS: Final = DAYS * DAY_MS // WINDOW_MS
SAMPLES_A_PUSH: Final = 25
TABLES: Final = ("usage_samples", "pushes", "attempts", "ledger_entries")

# Groups of 25 samples: one organisation, one size, one window. The organisations follow each other, all in turn; no
# window has as many groups as there are organisations.
GROUPS: Final = """
SELECT g, 'org-' || (g * 7919 % {orgs}) AS org_id, {start} + (g * {windows} / {groups}) * 300000 AS window_ms,
    CASE WHEN g % 2 = 0 THEN 1024 ELSE 4096 END AS memory_mb,
    CASE WHEN g % 2 = 0 THEN 'compute_1gb' ELSE 'compute_4gb' END AS feature
FROM generate_series(CAST({first} AS bigint), CAST({last} AS bigint)) g
"""
# `u.g` in the series keeps the 25 of a group together: else a day would come 25 times over, and no block would be of
# one hour.
SAMPLES: Final = """
INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at)
SELECT CAST(md5({seed} || '-' || g || '-' || j) AS uuid)::text, org_id, 'box-' || org_id, 'cell-' || (g % 7),
    memory_mb, 12, window_ms + j * 12000, window_ms + 300000
FROM ({of}) u, generate_series(0, 24 + u.g * 0) j
"""
PUSHES: Final = """
INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key,
    sealed_at_ms, seal_id, state, due_at_ms, claim_owner, attempts, first_attempt_ms, settled_ms)
SELECT window_ms, org_id, feature, 0, 'embedded', org_id, 300, 300,
    'usage:' || org_id || ':' || window_ms || ':' || feature, window_ms + 420000, (window_ms - {start}) / 300000 + 1,
    'accepted', window_ms + 420000, 'bench/1', 1, window_ms + 420000, window_ms + 420000
FROM ({of}) u
"""
ATTEMPTS: Final = """
INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty, finished_ms, outcome,
    attempts_then)
SELECT window_ms, org_id, feature, 0, 1, window_ms + 420000, 'bench/1', 300, window_ms + 420000, 'accepted', 1
FROM ({of}) u
"""
ENTRIES: Final = """
INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor,
    reason)
SELECT 'usage:' || u.org_id || ':' || u.window_ms || ':' || u.feature, 'usage', 'wallet:' || u.org_id,
    'revenue:' || u.feature, 300 * r.micro_credits / r.per_quantity, u.feature, 300, u.window_ms + 30000,
    u.window_ms + 420000, 'drawdown', 'usage'
FROM ({of}) u JOIN ledger_rates r ON r.feature = u.feature
"""
WALLETS: Final = """
UPDATE ledger_accounts SET balance_micro = balance_micro - x.amount FROM (
    SELECT from_account, SUM(amount_micro) AS amount FROM ledger_entries WHERE kind = 'usage' GROUP BY 1) x
WHERE account_id = x.from_account
"""
SEALS: Final = """
INSERT INTO seals (at_ms, bucket_lo, bucket_hi, horizon_ms, cursor, epoch)
SELECT {start} + n * 300000 + 420000, 0, 255, {start} + (n + 1) * 300000, 0, 0
FROM generate_series(CAST(0 AS bigint), {windows} - 1) n
"""
LOOKED_AT: Final = "UPDATE buckets SET cursor = pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
KEYS: Final = """
SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT ' || conname,
    'ALTER TABLE ' || conrelid::regclass || ' ADD CONSTRAINT ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype = 'p'
UNION ALL SELECT 'DROP INDEX ' || indexrelid::regclass, pg_get_indexdef(indexrelid)
FROM pg_index WHERE indrelid = '{table}'::regclass AND NOT indisprimary
"""


@dataclass(frozen=True)
class Size:
    """How much there is: samples and organisations; how many samples a tick finds, and how often one is measured."""

    samples: int
    orgs: int = 10_000
    new: int = 10_000
    runs: int = 5


def grow(engine: sa.Engine, size: Size) -> int:
    """Fill an empty database with samples and all that was made of them; how many pushes that are."""
    write(engine, partial(_settle_in, orgs=size.orgs))
    groups = max(size.samples // SAMPLES_A_PUSH, 1)
    with _bare(engine, TABLES):
        for day in range(DAYS):
            values = {"first": -(-day * groups // DAYS), "last": -(-(day + 1) * groups // DAYS) - 1, "groups": groups}
            of = GROUPS.format(**values, orgs=size.orgs, start=START_MS, windows=WINDOWS)
            for text in (SAMPLES, PUSHES, ATTEMPTS, ENTRIES):
                execute(engine, text.format(of=of, start=START_MS, seed=0))
    for text in (WALLETS, SEALS, LOOKED_AT):
        execute(engine, text.format(start=START_MS, windows=WINDOWS))
    return groups


def _settle_in(connection: sa.Connection, orgs: int) -> None:
    """Organisations, each assigned to the embedded ledger for ever and given more than it can use, on record."""
    by = By(START_MS, "bench", "a benchmark")
    install_defaults(connection, replace(by, now_ms=0))
    assignments.assign(connection, [f"org-{number}" for number in range(orgs)], "embedded", by, from_ms=START_MS)
    for number in range(orgs):
        credit.grant(connection, f"org-{number}", CREDIT_MICRO, by, key=f"first-{number}", plan=None)
    text = "UPDATE buckets SET watermark_ms = :end, sweep_next_ms = :end, sweep_began_ms = :end"
    connection.execute(sa.text(text), {"end": window(WINDOWS)})


def use_new(engine: sa.Engine, size: Size, number: int) -> int:
    """New samples in one window; how many pushes they come to."""
    groups = size.new // SAMPLES_A_PUSH
    of = GROUPS.format(orgs=size.orgs, start=window(number), windows=1, groups=groups, first=0, last=groups - 1)
    execute(engine, SAMPLES.format(of=of, seed=number))
    return groups


def execute(engine: sa.Engine, text: str) -> None:
    """A transaction of one statement."""
    with engine.begin() as connection:
        connection.exec_driver_sql(text.replace("%", "%%"))


@contextmanager
def _bare(engine: sa.Engine, tables: Sequence[str]) -> Iterator[None]:
    """Keys and indexes are made afterwards: filled row by row, those over ids at random would take most of the time."""
    with engine.begin() as connection:
        found = [row for table in tables for row in connection.exec_driver_sql(KEYS.format(table=table)).all()]
        for drop, _ in found:
            connection.exec_driver_sql(drop)
    yield
    for _, create in found:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '512MB'")
            connection.exec_driver_sql(create)
