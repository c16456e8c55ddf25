"""Overrides: those that have ended, and the immediate effect of one on a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.engine.shard import Shard
from drawdown.worker.verdict.org_row import after_operator, lock_rows, write

SQL = queries(__file__)

APPLIED_AT_ONCE: Final = 500


def end_overrides(connection: sa.Connection, shard: Shard, now_ms: int) -> None:
    """Forget the overrides that have run out: that changes verdicts without anything else happening."""
    values = {"now_ms": now_ms, "lo": shard.lo, "hi": shard.hi}
    apply_now(connection, SQL.run(connection, "end_overrides", values).scalars().all(), now_ms)


def release_exempt(connection: sa.Connection, shard: Shard, now_ms: int) -> None:
    """Whoever was halted for lack of credit, and is billed by nobody now, goes on: nobody would be asked ever again."""
    found = SQL.run(connection, "halted_and_exempt", {"lo": shard.lo, "hi": shard.hi})
    apply_now(connection, found.scalars().all(), now_ms)


def apply_now(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Write what holds by what is known, without waiting for a provider that perhaps nobody can ask."""
    ordered = sorted(set(org_ids))
    for start in range(0, len(ordered), APPLIED_AT_ONCE):
        some = ordered[start : start + APPLIED_AT_ONCE]
        rows = lock_rows(connection, some)
        write(connection, [after_operator(org, now_ms) for org in rows], now_ms)
