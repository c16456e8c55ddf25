"""Whether somebody watches, and what was read of providers.

Guarantee: a watch that ended is forgotten within minutes, and ticks estimate no longer; what is counted here is counted
in the transaction that did it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS, MINUTE_MS

WATCHED_FOR_MS: Final = 5 * MINUTE_MS
STOPPED_FOR_MS: Final = DAY_MS
"""After so long without a round nobody misses the watch any more: ticks alone are a way to run it."""

ROUNDS: Final = "SELECT round_ms, rounds FROM watch_state"
WRONG_ESTIMATES: Final = "SELECT COUNT(*) FROM projections WHERE reason = 'estimate_wrong'"
UNREAD: Final = """
SELECT COALESCE(billing_provider, '') AS provider, COUNT(*) AS orgs, MIN(unread_since_ms) AS since_ms,
    MIN(org_id) AS first_org FROM orgs
WHERE unread_since_ms IS NOT NULL GROUP BY 1 ORDER BY 1
"""
NOTE_READS: Final = """
INSERT INTO provider_reads (provider, outcome, reads) VALUES (:provider, :outcome, :reads)
ON CONFLICT (provider, outcome) DO UPDATE SET reads = provider_reads.reads + excluded.reads
"""


def last_round_ms(connection: sa.Connection) -> int | None:
    """When a watch last went round; None: never."""
    at = connection.execute(sa.text(ROUNDS)).one().round_ms
    return None if at is None else int(at)


def is_watched(connection: sa.Connection, now_ms: int) -> bool:
    """Whether a watch went round within the last minutes."""
    at = last_round_ms(connection)
    return at is not None and abs(now_ms - at) < WATCHED_FOR_MS


def note_round(connection: sa.Connection, now_ms: int) -> None:
    """To be the last thing that a transaction does, too."""
    connection.execute(sa.text("UPDATE watch_state SET round_ms = :now, rounds = rounds + 1"), {"now": now_ms})


def note_reads(connection: sa.Connection, provider: str, counts: Mapping[str, int]) -> None:
    """Count customers read, by outcome. To be the last thing that a transaction does: other workers wait for it."""
    rows = [{"provider": provider, "outcome": outcome, "reads": counts[outcome]} for outcome in sorted(counts)]
    if rows:
        connection.execute(sa.text(NOTE_READS), rows)
