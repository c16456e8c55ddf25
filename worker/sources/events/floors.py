"""Floors that are raised while events come in (S4).

Guarantee: what is answered `accepted` lies above its organisation's floor once it is committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.locks import lock_orgs
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS
from drawdown.worker.sources.events.store import SQL, Taken

NOT_YET_MS: Final = LATE_HORIZON_MS - DAY_MS
"""What is younger lies above any floor that is raised now, though clocks differ by a day: `prune` refuses the rest."""


def hold(connection: sa.Connection, events: Sequence[UsageEvent], taken: Sequence[Taken], now_ms: int) -> bool:
    """Let nobody raise a floor past old events that went in here until they are committed; False where one was raised
    past them since they were taken: then they are to be taken again. Whoever raises one looks, under S1's lock, at what
    came in before, and does not see a transaction that goes on. SQLite has one writer at a time.
    """
    if connection.dialect.name != "postgresql":
        return True
    went_in = [event for event, answer in zip(events, taken, strict=True) if answer.status in ("accepted", "pending")]
    old = [event for event in went_in if event.occurred_ms < now_ms - NOT_YET_MS]
    if not old:
        return True
    orgs = sorted({event.org_id for event in old})
    lock_orgs(connection, orgs)
    floors = {str(row.org_id): int(row.floor_ms) for row in SQL.run(connection, "floors", {"orgs": orgs})}
    return all(event.occurred_ms >= floors.get(event.org_id, 0) for event in old)
