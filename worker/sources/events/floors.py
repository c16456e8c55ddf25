"""Floors that are raised while events and samples come in (S4).

Guarantee: what is answered `accepted` lies above its organisation's floor once it is committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.locks import lock_orgs
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS
from drawdown.worker.sources.events.store import SQL, Taken

NOT_YET_MS: Final = LATE_HORIZON_MS - DAY_MS
"""What is younger lies above any floor that is raised now, though clocks differ by a day: `prune` refuses the rest."""


def hold(connection: sa.Connection, used: Sequence[tuple[str, int]], taken: Sequence[Taken], now_ms: int) -> bool:
    """Let nobody raise a floor past old usage that went in here until it is committed; False where one was raised past
    it since it was taken: then it is to be taken again. Whoever raises one looks, under S1's lock, at what came in
    before, and does not see a transaction that goes on. SQLite has one writer at a time. `used`: of each item its
    organisation, and when.
    """
    if connection.dialect.name != "postgresql":
        return True
    went_in = [one for one, answer in zip(used, taken, strict=True) if answer.status in ("accepted", "pending")]
    old = [(org_id, ts) for org_id, ts in went_in if ts < now_ms - NOT_YET_MS]
    if not old:
        return True
    orgs = sorted({org_id for org_id, _ in old})
    lock_orgs(connection, orgs)
    floors = {str(row.org_id): int(row.floor_ms) for row in SQL.run(connection, "floors", {"orgs": orgs})}
    return all(ts >= floors.get(org_id, 0) for org_id, ts in old)
