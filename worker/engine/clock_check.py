"""Compare this machine's clock with the database's and the last tick (rule S9).

If the clock is wrong, a tick would seal windows that are still open, or would stop sealing.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.errors import ClockDoubted
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, SECOND_MS

SQL = queries(__file__)

MAX_SKEW_MS = 30 * SECOND_MS
"""Most milliseconds by which the clocks of the machine and the database may differ."""
MAX_JUMP_MS = DAY_MS
"""Largest jump of the clock that Drawdown accepts without `--accept-clock`."""


def database_now(connection: sa.Connection, now: int) -> int:
    """Return the time of the database server (milliseconds); for SQLite, `now`."""
    if connection.dialect.name != "postgresql":
        return now
    return int(SQL.run(connection, "database_now").scalar_one())


def require_clock(connection: sa.Connection, now: int) -> None:
    """Check the clock, for a command that stores its time.

    Errors: ClockDoubted if this machine's clock differs from the database's by more than MAX_SKEW_MS. ClockDoubted,
    too, if it is that much behind the last tick without `--at`. Without this check, a change could have an earlier date
    than the rows that it changes.
    """
    server_now = database_now(connection, now)
    if abs(now - server_now) > MAX_SKEW_MS:
        raise ClockDoubted(
            f"{_apart(now, server_now)}. Drawdown did not change the database. Synchronise both clocks with NTP"
        )
    previous = last_doubted_clock(connection)
    if previous is not None and now < previous - MAX_SKEW_MS:
        raise ClockDoubted(
            f"this machine's clock is {(previous - now) / SECOND_MS:,.0f} s behind the last tick. Drawdown did not "
            "change the database. Correct the clock with NTP, or pass --at with the correct time"
        )


def last_doubted_clock(connection: sa.Connection) -> int | None:
    """Return the start of the last tick without `--at`, in milliseconds.

    None: such a tick has not run yet.
    """
    found: int | None = SQL.run(connection, "last_doubted_clock").scalar_one_or_none()
    return found


def _apart(now: int, server_now: int) -> str:
    return f"this machine's clock and the database's clock differ by {abs(now - server_now) / SECOND_MS:.0f} s"


def doubt_the_clock(now: int, server_now: int, previous: int | None) -> None:
    """Check the clock for a tick.

    All times are in milliseconds. `previous`: the result of `last_doubted_clock`.

    Errors: ClockDoubted if the clocks differ by more than MAX_SKEW_MS, or the clock jumped by more than MAX_JUMP_MS. In
    that case, a person decides which clock is correct.
    """
    if abs(now - server_now) > MAX_SKEW_MS:
        raise ClockDoubted(
            f"{_apart(now, server_now)}. Synchronise both clocks with NTP, or run `drawdown tick --accept-clock` once"
        )
    if previous is not None and abs(now - previous) > MAX_JUMP_MS:
        side = "ago" if now > previous else "in the future"
        raise ClockDoubted(
            f"the last tick was {abs(now - previous) / DAY_MS:.1f} days {side}. "
            "If the clock is correct, run `drawdown tick --accept-clock` once"
        )
