"""Whether somebody watches. Guarantee: a watch that ended is forgotten within minutes, and ticks estimate no longer."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import MINUTE_MS

WATCHED_FOR_MS: Final = 5 * MINUTE_MS


def is_watched(connection: sa.Connection, now_ms: int) -> bool:
    """Whether a watch went round within the last minutes."""
    at = connection.execute(sa.text("SELECT round_ms FROM watch_state")).scalar_one()
    return at is not None and abs(now_ms - int(at)) < WATCHED_FOR_MS


def note_round(connection: sa.Connection, now_ms: int) -> None:
    connection.execute(sa.text("UPDATE watch_state SET round_ms = :now"), {"now": now_ms})
