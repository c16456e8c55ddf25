"""Pruning: raise the floor, then delete samples below it (rule S4).

Guarantee: the floor goes first, under the seal's lock, and never past what is pending, unsealed, to be sealed again
or not looked at yet; so a deleted sample can never look like a refund, nor go unbilled.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.units import LATE_HORIZON_MS, window_of
from drawdown.worker.actions import lock_buckets, record
from drawdown.worker.orgs import Said


@dataclass(frozen=True)
class Pruned:
    """What was pruned; `held_back` counts organisations whose floor stays lower, for something is open there."""

    before_ms: int
    samples: int
    orgs: int
    held_back: int


_REACHABLE = """
SELECT o.org_id, MIN(:before, COALESCE(o.held_watermark_ms, b.watermark_ms),
    COALESCE((SELECT MIN(window_ms) FROM pending_usage p WHERE p.org_id = o.org_id), :before),
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
WHERE s.arrival >= (SELECT MIN(cursor) FROM buckets) AND s.arrival >= b.cursor AND s.problem IS NULL
    AND s.ts < :before GROUP BY s.org_id
"""


def prune(connection: sa.Connection, before_ms: int, said: Said) -> Pruned:
    """Delete samples of windows that ended before a moment, as far as each organisation allows.

    Errors: UsageError for a moment within the late horizon (35 days), in which samples may still arrive.
    """
    before = window_of(before_ms)
    if before > said.now_ms - LATE_HORIZON_MS:
        raise UsageError("samples may arrive up to 35 days late: prune before that only")
    lock_buckets(connection)
    reachable = (
        _REACHABLE if connection.dialect.name == "sqlite" else _REACHABLE.replace("MIN(:before", "LEAST(:before")
    )
    floors = {str(org): int(floor) for org, floor in connection.execute(sa.text(reachable), {"before": before})}
    for statement in (_OPEN, _ARRIVED):
        for org, window in connection.execute(sa.text(statement), {"before": before}):
            floors[org] = min(floors.get(org, before), int(window))
    rows = [{"org": org, "floor": floor} for org, floor in floors.items()]
    if rows:
        connection.execute(sa.text("UPDATE orgs SET floor_ms = :floor WHERE org_id = :org AND floor_ms < :floor"), rows)
    deleted = connection.execute(
        sa.text(
            "DELETE FROM usage_samples WHERE ts < :before AND ts < (SELECT o.floor_ms FROM orgs o "
            "WHERE o.org_id = usage_samples.org_id)"
        ),
        {"before": before},
    ).rowcount
    held = sum(floor < before for floor in floors.values())
    details = {"before_ms": before, "samples": deleted, "held_back": held}
    record(connection, "sample_prune", "all", details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    return Pruned(before, deleted, len(floors) - held, held)
