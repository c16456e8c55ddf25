"""Rule S9: compares this machine's clock with the database's, and with the last tick. A wrong clock seals windows
that are still open, or none at all."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.errors import ClockDoubted
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, SECOND_MS

SQL = queries(__file__)

MAX_SKEW_MS = 30 * SECOND_MS
MAX_JUMP_MS = DAY_MS


def database_now(connection: sa.Connection, now: int) -> int:
    """The database server's clock; a SQLite file has none but ours."""
    if connection.dialect.name != "postgresql":
        return now
    return int(SQL.run(connection, "database_now").scalar_one())


def doubt_the_clock(now: int, server_now: int, previous: int | None) -> None:
    """Errors: ClockDoubted, for a person to tell which clock is right."""
    if abs(now - server_now) > MAX_SKEW_MS:
        raise ClockDoubted(
            f"this machine's clock and the database's differ by {abs(now - server_now) / 1000:.0f} s: "
            "set them right (NTP), or run `drawdown tick --accept-clock` once"
        )
    if previous is not None and abs(now - previous) > MAX_JUMP_MS:
        side = "ago" if now > previous else "in the future"
        raise ClockDoubted(
            f"the last tick was {abs(now - previous) / DAY_MS:.1f} days {side}: "
            "if the clock is right, run `drawdown tick --accept-clock` once"
        )
