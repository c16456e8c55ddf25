"""Calendar months in UTC. Pure.

Guarantee: months do not overlap, and leave no moment out. A month is named `2026-01`; moments are milliseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime


def period_of(moment_ms: int) -> str:
    """The month of a moment."""
    return _moment(moment_ms).strftime("%Y-%m")


def start_of(moment_ms: int) -> int:
    """When the month of a moment began."""
    found = _moment(moment_ms)
    return _ms(found.year, found.month)


def next_start(moment_ms: int) -> int:
    """When the month after that of a moment begins."""
    found = _moment(moment_ms)
    return _ms(found.year + found.month // 12, found.month % 12 + 1)


def _moment(moment_ms: int) -> datetime:
    return datetime.fromtimestamp(moment_ms // 1000, UTC)


def _ms(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
