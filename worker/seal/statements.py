"""The seal's request, its lock, and the run of its statements.

Guarantee: the lock is a seal's first statement (rule S1), and values are bound, never pasted into SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By, record
from drawdown.schema.sql import Queries, queries
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.seal.arrivals import UNREAD, Seen, seen_by_all

SQL = queries(__file__)


@dataclass(frozen=True)
class SealRequest:
    """What one seal transaction is asked for."""

    shard: Shard
    horizon_ms: int
    now_ms: int
    providers: Mapping[str, Capabilities] = field(default_factory=dict)
    new_orgs: NewOrgs | None = None
    only: tuple[str, ...] | None = None
    """Seal these organisations alone and move no watermark: how a bad one is found (S8)."""
    witness: Witness | None = None
    """What the tick began on (R1)."""


@dataclass(frozen=True)
class Sealed:
    """What one seal transaction did."""

    seal_id: int
    pushes: int
    new_orgs: int = 0
    restored: bool = False


@dataclass(frozen=True)
class Lock:
    """What the bucket rows said once they were locked."""

    seen: Seen
    watermark_ms: int
    """Of the bucket that is sealed furthest."""
    epoch: int


class Statements:
    """Runs the pieces with this seal's `values`, and with what its `slots` hold."""

    def __init__(self, connection: sa.Connection, request: SealRequest, watermark_ms: int, seen: Seen = UNREAD) -> None:
        self.connection = connection
        self.is_postgresql = connection.dialect.name == "postgresql"
        self.values: dict[str, object] = {
            "lo": request.shard.lo,
            "hi": request.shard.hi,
            "now_ms": request.now_ms,
            "horizon_ms": request.horizon_ms,
            "watermark_ms": watermark_ms,
            "scan_end_ms": min(watermark_ms, request.horizon_ms),
            **seen.values,
        }
        self.slots = {
            "later": seen.piece,
            "scope": "",
            "prior_scope": "",
            "dirty_scope": "",
            "pending_scope": "",
            "only_below": "",
        }

    def run(self, name: str, *slots: str, of: Queries = SQL, **chosen: str) -> sa.CursorResult[Any]:
        """Run a piece; `slots`: those of this seal's that it has, beside those `chosen` here."""
        chosen.update((slot, self.slots[slot]) for slot in slots)
        return of.run(self.connection, name, self.values, **chosen)


def lock_shard(connection: sa.Connection, request: SealRequest) -> tuple[Lock, bool]:
    """Errors: HistoryDoubted while the database stands still (R1): what is sealed for a biller stays sealed, and a flip
    that was lost could then not be made again."""
    rows = SQL.run(connection, "lock_shard", {"lo": request.shard.lo, "hi": request.shard.hi}).all()
    assert rows, "the buckets are never deleted"
    require_same(connection, request.witness)
    lock = Lock(
        seen=seen_by_all(rows),
        watermark_ms=max(row.watermark_ms for row in rows),
        epoch=max(row.epoch for row in rows),
    )
    # S2: a cursor that the database's own counter has not reached yet comes from before a restore.
    if max(row.cursor for row in rows) <= int(SQL.run(connection, "newest_arrival").scalar_one()):
        return lock, False
    return _restart_cursor(connection, request, lock), True


def _restart_cursor(connection: sa.Connection, request: SealRequest, lock: Lock) -> Lock:
    """Start a new epoch: read all arrivals again. Nothing can be billed twice by it, only found."""
    shard = request.shard
    SQL.run(connection, "restart_cursor", {"lo": shard.lo, "hi": shard.hi, "epoch": lock.epoch + 1})
    record(
        connection,
        "cursor_restart",
        f"buckets {shard.lo}..{shard.hi}",
        {"cursor": lock.seen.cursor},
        By(request.now_ms, "drawdown", "S2: the cursor lay beyond the database's own counter: it was restored"),
    )
    return Lock(UNREAD, watermark_ms=lock.watermark_ms, epoch=lock.epoch + 1)


def narrow_if_needed(run: Statements, request: SealRequest) -> bool:
    """A stopped organisation's samples and pushes are not even added up: what broke the seal would again (S8).

    Returns whether there is one."""
    if request.only is not None:
        run.values["only"] = [{"org_id": org} for org in request.only]
        run.slots.update(
            scope="these_samples", prior_scope="these_pushes", dirty_scope="these_dirty", pending_scope="these_rows"
        )
        return False
    if run.run("count_stopped").scalar_one():
        run.slots.update(scope="going_samples", prior_scope="going_pushes")
        return True
    return False


def know_tables(run: Statements) -> None:
    """Give PostgreSQL's planner the statistics without which it joins row by row."""
    if run.is_postgresql:
        for name in run.run("unknown_tables").scalars().all():
            run.run(f"analyze_{name}")
        run.run("analyze_work")
