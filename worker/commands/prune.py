"""Pruning: raise the floor, then delete samples below it (rule S4).

Guarantee: the floor goes first, under the seal's lock, and never past what is pending, unsealed, to be sealed again
or not looked at yet; so a deleted sample can never look like a refund, nor go unbilled. Samples go afterwards, and
nobody waits for it. What is quarantined goes only once it was mended or dismissed: its time may be the very thing
that is wrong, and lie below every floor. The database's own guard asks for the floor alone, as a refund is what it
keeps away; hosts may delete nothing there, and a worker's login deletes nothing but here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import Said, record
from drawdown.schema.errors import UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import rows_sql
from drawdown.schema.units import LATE_HORIZON_MS, WINDOW_MS, window_of
from drawdown.worker.seal.arrivals import UNSEEN, UNSEEN_BY_SOME

Transact = Callable[..., Any]
"""Runs work in a transaction and commits it; with `rollback=True`, leaves nothing behind."""
LEAST_TS_MS: Final = 946_684_800_000
"""2000-01-01: samples dated before are quarantined."""
EVER_MS: Final = -(1 << 62)


@dataclass(frozen=True)
class Pruned:
    """What was pruned; `held_back` counts organisations whose floor stays lower, for something is open there;
    `quarantined` those samples below the floor that are kept, as nobody has dealt with them."""

    before_ms: int
    samples: int
    orgs: int
    held_back: int
    quarantined: int


_REACHABLE = """
SELECT o.org_id, MIN(:before, COALESCE(o.held_watermark_ms, b.watermark_ms),
    COALESCE((SELECT MIN(window_ms) FROM pending_usage p WHERE p.org_id = o.org_id AND p.seconds <> 0), :before),
    COALESCE((SELECT MIN(window_ms) FROM dirty_windows d WHERE d.org_id = o.org_id), :before)) AS floor_ms
FROM orgs o JOIN buckets b ON b.id = o.bucket
"""

_OPEN = """
SELECT org_id, MIN(window_ms) FROM pushes WHERE state IN ('due', 'queued', 'in_doubt', 'rejected')
    AND window_ms < :before GROUP BY org_id
"""

# A late sample that no seal has looked at yet has made nothing dirty, and would go unbilled.
_ARRIVED = """
SELECT s.org_id, MIN(s.ts - s.ts % 300000) FROM usage_samples s JOIN orgs o ON o.org_id = s.org_id
JOIN buckets b ON b.id = o.bucket
WHERE {unseen_by_some} AND {unseen} AND s.problem IS NULL
    AND s.ts < :before GROUP BY s.org_id
"""


# Nothing to bill is nothing to wait for; a guard lets no floor pass whatever is pending.
_FORGET_NOTHING = """
DELETE FROM pending_usage WHERE seconds = 0 AND EXISTS (SELECT 1 FROM ({floors}) f
    WHERE f.org_id = pending_usage.org_id AND pending_usage.window_ms < f.floor_ms)
"""

# What was never sealed under any floor goes with the first window. What is quarantined begins no walk: it may stay.
_FIRST = "SELECT MIN(ts) FROM usage_samples WHERE ts >= :least AND ts < :before AND problem IS NULL"
_DEALT_WITH = "EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = s.id)"
_GOING = f"(s.problem IS NULL OR {_DEALT_WITH})"
_KEPT = f"s.problem IS NOT NULL AND NOT {_DEALT_WITH}"

# What arrived since no seal has looked at: the next one quarantines and counts it, and then it goes.
_BELOW = f"""
s.ts >= :since AND s.ts < :to AND EXISTS (SELECT 1 FROM orgs o JOIN buckets b ON b.id = o.bucket
    WHERE o.org_id = s.org_id AND s.ts < o.floor_ms AND NOT {{unseen}})
AND {_GOING}
"""


def prune(transact: Transact, before_ms: int, said: Said, *, dry_run: bool = False) -> Pruned:
    """Delete samples of windows that ended before a moment, as far as each organisation allows.

    The floors are one transaction, under the lock and short; samples go a window at a time, each in a transaction of
    its own that no seal waits for. Cut off in between, the same command deletes the rest.
    Errors: UsageError for a moment within the late horizon (35 days), in which samples may still arrive.
    """
    before = window_of(before_ms)
    if before > said.now_ms - LATE_HORIZON_MS:
        raise UsageError("samples may arrive up to 35 days late: prune before that only")
    floors = transact(partial(raise_floors, before=before, said=said), rollback=dry_run)
    held = sum(floor < before for floor in floors.values())
    count = partial(_count, floors=floors, before=before)
    samples = transact(partial(count, which=_GOING), rollback=True) if dry_run else _delete(transact, before)
    kept = transact(partial(count, which=_KEPT), rollback=True)
    return Pruned(before, samples, len(floors) - held, held, kept)


def raise_floors(connection: sa.Connection, *, before: int, said: Said) -> Mapping[str, int]:
    """Close windows before a moment for good; returns each organisation's reach, which is lower where something is open
    there. Organisations are written in their order, so that two of their writers never wait crosswise."""
    lock_buckets(connection)
    dialect = connection.dialect.name
    reachable = _REACHABLE if dialect == "sqlite" else _REACHABLE.replace("MIN(:before", "LEAST(:before")
    floors = {str(org): int(floor) for org, floor in connection.execute(sa.text(reachable), {"before": before})}
    arrived = _ARRIVED.replace("{unseen_by_some}", UNSEEN_BY_SOME[dialect]).replace("{unseen}", UNSEEN[dialect])
    for statement in (_OPEN, arrived):
        for org, window in connection.execute(sa.text(statement), {"before": before}):
            floors[org] = min(floors.get(org, before), int(window))
    rows = [{"org": org, "floor": floor} for org, floor in sorted(floors.items())]
    if rows:
        shape, values = _floors_sql(connection, floors)
        connection.execute(sa.text(_FORGET_NOTHING.replace("{floors}", shape)), values)
        connection.execute(sa.text("UPDATE orgs SET floor_ms = :floor WHERE org_id = :org AND floor_ms < :floor"), rows)
    held = sum(floor < before for floor in floors.values())
    details = {"before_ms": before, "held_back": held}
    record(connection, "sample_prune", "all", details, said)
    return floors


def _delete(transact: Transact, before: int) -> int:
    first = transact(lambda c: c.execute(sa.text(_FIRST), {"least": LEAST_TS_MS, "before": before}).scalar())
    ends = range(window_of(before - 1 if first is None else first) + WINDOW_MS, before + 1, WINDOW_MS)
    starts = [EVER_MS, *ends]
    return sum(transact(partial(_delete_between, since=since, to=to)) for since, to in zip(starts, ends, strict=False))


def _delete_between(connection: sa.Connection, *, since: int, to: int) -> int:
    values = {"since": since, "to": to}
    below = _BELOW.replace("{unseen}", UNSEEN[connection.dialect.name])
    return connection.execute(sa.text(f"DELETE FROM usage_samples AS s WHERE {below}"), values).rowcount


def _count(connection: sa.Connection, *, floors: Mapping[str, int], before: int, which: str) -> int:
    shape, values = _floors_sql(connection, floors)
    text = f"SELECT COUNT(*) FROM usage_samples s JOIN ({shape}) f ON f.org_id = s.org_id WHERE s.ts < f.floor_ms"
    found = connection.execute(sa.text(f"{text} AND s.ts < :before AND {which}"), {**values, "before": before})
    return int(found.scalar_one())


def _floors_sql(connection: sa.Connection, floors: Mapping[str, int]) -> tuple[str, dict[str, object]]:
    """The floors as rows of a statement, and what it is bound to."""
    rows = [{"org_id": org, "floor_ms": floor} for org, floor in floors.items()]
    return rows_sql(connection, {"org_id": "text", "floor_ms": "bigint"}), {"rows": json.dumps(rows)}
