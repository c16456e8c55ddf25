"""What a replay found, and what it left out with the reason, so that a person sees why something is not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import rows_sql
from drawdown.worker.catalog.prices import Prices, add
from drawdown.worker.replay.plan import ReplayPlan


@dataclass(frozen=True)
class FoundPush:
    """One push that the range still owed. `price_micro`: by the rate card, None without a price. In shadow it is
    sealed, and never sent."""

    org_id: str
    window_ms: int
    feature: str
    revision: int
    quantity: int
    provider: str
    shadow: bool
    price_micro: int | None


@dataclass
class Tally:
    """One organisation's feature at one provider, summed up."""

    org_id: str
    provider: str
    feature: str
    pushes: int = 0
    quantity: int = 0
    price_micro: int | None = 0

    @classmethod
    def of(cls, one: FoundPush) -> Tally:
        return cls(one.org_id, one.provider, one.feature)

    def add(self, one: FoundPush) -> None:
        self.pushes += 1
        self.quantity += one.quantity
        self.price_micro = add(self.price_micro, one.price_micro)


@dataclass
class Left:
    """What lies in the range and is no new push: `why`, in how many windows of an organisation, how much in `unit`."""

    why: str
    unit: str
    windows: int = 0
    quantity: int = 0

    def add(self, other: Left) -> None:
        self.windows += other.windows
        self.quantity += other.quantity


FOUND = """
SELECT org_id, window_ms, feature, revision, sealed_qty, provider, state FROM pushes
WHERE seal_id = :seal AND window_ms >= :start ORDER BY window_ms, org_id, feature
"""


def found_in(connection: sa.Connection, seal_id: int, start: int) -> list[FoundPush]:
    """The pushes that a seal made of windows from `start` on."""
    prices = Prices.read(connection)
    rows = connection.execute(sa.text(FOUND), {"seal": seal_id, "start": start})
    return [
        FoundPush(
            row.org_id,
            row.window_ms,
            row.feature,
            row.revision,
            row.sealed_qty,
            row.provider,
            row.state == "shadow",
            prices.of(row.feature, row.window_ms, row.sealed_qty),
        )
        for row in rows
    ]


PENDING = """
SELECT 'pending: ' || q.reason, 's', COUNT(*), SUM(q.seconds) FROM pending_usage q
WHERE q.window_ms >= :start AND q.window_ms < :end {only} GROUP BY q.reason
"""
# The seal's work table still holds the range's usage.
EXEMPT = """
SELECT 'exempt: ' || a.provider, 's', COUNT(DISTINCT q.org_id || ' ' || q.window_ms), SUM(q.seconds) FROM seal_work q
JOIN assignments a ON a.org_id = q.org_id AND a.start_ms <= q.window_ms
    AND (a.end_ms IS NULL OR q.window_ms < a.end_ms) AND a.provider IN ('legacy', 'none')
WHERE 1 = 1 {only} GROUP BY a.provider
"""
SHADOW = """
SELECT 'shadow: ' || q.provider, q.feature, COUNT(*), SUM(q.sealed_qty) FROM pushes q
WHERE q.window_ms >= :start AND q.window_ms < :end AND q.state = 'shadow'
    AND q.seal_id <> :seal {only} GROUP BY q.provider, q.feature
"""
QUARANTINED = """
SELECT 'quarantined: ' || q.problem, 'samples', COUNT(*), COUNT(*) FROM usage_samples q
WHERE q.problem IS NOT NULL AND q.ts >= :start AND q.ts < :end {only} GROUP BY q.problem
"""
STOPPED = """
SELECT 'stopped organisation', 'samples', COUNT(*), COUNT(*) FROM usage_samples q
JOIN orgs o ON o.org_id = q.org_id AND o.stopped_at_ms IS NOT NULL
WHERE q.ts >= :start AND q.ts < :end AND q.problem IS NULL {only} HAVING COUNT(*) > 0
"""


def left_in(connection: sa.Connection, plan: ReplayPlan, start: int, end: int, seal_id: int) -> Sequence[Left]:
    """What lies in [start, end) without being due to anybody: pending, exempt, in shadow, quarantined, stopped."""
    values: dict[str, object] = {"start": start, "end": end, "seal": seal_id}
    only = ""
    if plan.orgs is not None:
        only = "AND q.org_id IN (" + rows_sql(connection, {"org_id": "text"}) + ")"
        values["rows"] = json.dumps([{"org_id": org} for org in plan.orgs])
    texts = [PENDING, EXEMPT, SHADOW, QUARANTINED, *([STOPPED] if plan.stopped else [])]
    found: list[Left] = []
    for text in texts:
        prepared = sa.text(text.replace("{only}", only))
        given = {name: values[name] for name in prepared._bindparams}
        found += [
            Left(why, unit, int(count), int(sum_)) for why, unit, count, sum_ in connection.execute(prepared, given)
        ]
    return found
