"""Counters are compared with the uses they are sums of, and made so.

Guarantee: a correction is a difference, computed under the counter's lock, and on record with what was before and
after. A counter of which there are no uses is left as it is: what is unknown is not nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.guard.periods import Period, end_of
from drawdown.schema.audit import By, record
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries

SQL = queries(__file__)

CORRECTED_AT_ONCE: Final = 1_000
"""Counters that one transaction corrects."""


@dataclass(frozen=True)
class Counter:
    """Which one: a period's, by its begin."""

    org_id: str
    metric: str
    period: Period
    start_ms: int


@dataclass(frozen=True)
class Correction:
    """What a counter said, and says now."""

    counter: Counter
    before: int
    after: int


def correct(connection: sa.Connection, counters: list[Counter], by: By) -> list[Correction]:
    """Make counters the sums of their uses; those that were none, in their order of locks. Errors: UsageError."""
    if len(counters) > CORRECTED_AT_ONCE:
        raise UsageError(f"{CORRECTED_AT_ONCE:,} counters at most are corrected at once")
    longer_first: dict[Period, int] = {"month": 0, "day": 1, "hour": 2}
    found = []
    for one in sorted(counters, key=lambda c: (c.org_id, c.metric, c.start_ms, longer_first[c.period])):
        done = _correct(connection, one, by)
        if done is not None:
            found.append(done)
    return found


def _correct(connection: sa.Connection, counter: Counter, by: By) -> Correction | None:
    values = vars(counter)
    SQL.run(connection, "make", values)
    kept = SQL.run(connection, "counter", values).one()
    lines = SQL.run(connection, "sum", {**values, "end_ms": end_of(counter.period, counter.start_ms)}).one()
    before, after, uses = int(kept.used), int(lines.amount), int(lines.uses)
    if uses == 0 or (before, int(kept.uses)) == (after, uses):
        return None
    SQL.run(connection, "correct", {**values, "after": after, "uses": uses})
    said = {**values, "before": before, "after": after}
    SQL.run(connection, "add", {**said, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason})
    record(connection, "guard_correct", counter.metric, said, by)
    return Correction(counter, before, after)
