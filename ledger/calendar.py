"""Calendar months in UTC.

Guarantee: this module is pure. Months do not overlap, and cover every moment. The name of a month is `2026-01`. Moments
are milliseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime


def period_of(moment_ms: int) -> str:
    """Return the month of a moment."""
    return _moment(moment_ms).strftime("%Y-%m")


def start_of(moment_ms: int) -> int:
    """Return the start of the month of a moment, in milliseconds."""
    found = _moment(moment_ms)
    return _ms(found.year, found.month)


def next_start(moment_ms: int) -> int:
    """Return the start of the next month after a moment, in milliseconds."""
    found = _moment(moment_ms)
    return _ms(found.year + found.month // 12, found.month % 12 + 1)


def _moment(moment_ms: int) -> datetime:
    return datetime.fromtimestamp(moment_ms // 1000, UTC)


def _ms(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
