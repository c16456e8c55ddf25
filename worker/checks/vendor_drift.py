"""Vendors' bills of the last days beside what usage should have cost: compared, told, and kept for metrics."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS
from drawdown.worker.checks.kept import keep
from drawdown.worker.provider import vendor_lists as vendors
from drawdown.worker.provider.vendor_lists import LEAST_MICRO, TOLERANCE_PPM, Drifted


def check(
    connection: sa.Connection, now_ms: int, tolerance_ppm: int = TOLERANCE_PPM, least_micro: int = LEAST_MICRO
) -> Drifted:
    """The last days up to today, and keep how many lines were off, and alert."""
    today = now_ms - now_ms % DAY_MS
    lines = vendors.drift(connection, today - vendors.SPAN_DAYS * DAY_MS, today, now_ms, tolerance_ppm, least_micro)
    found = Drifted.of(lines)
    keep(connection, "vendors", now_ms, off=sum(line.is_off for line in lines), alerts=found.alerts)
    return found
