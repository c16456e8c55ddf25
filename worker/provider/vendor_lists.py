"""What usage should have cost at vendors beside what they billed, by vendor, service and day. Reads only.

Guarantee: whole numbers only, each line rounded once; two currencies are never added. A day without a bill is unknown,
and not a bill of zero. What nothing here is mapped to is a line of its own. Nobody is alerted by the last two days, nor
by a single day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.schema.errors import Exit, UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

log = structlog.get_logger()
SQL = queries(__file__)

TOLERANCE_PPM: Final = 150_000
LEAST_MICRO: Final = 1_000_000
"""One of the currency: what differs by less is no drift, however many per cent it is."""
FRESH_DAYS: Final = 2
"""Vendors go on counting those."""
SPAN_DAYS: Final = 14
"""Without a range: up to today."""
MAX_DAYS: Final = 400
MAX_ROWS: Final = 100_000
PPM: Final = 1_000_000
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class DriftLine:
    """A vendor's service on one day, in millionths of the currency. `state`: `final` or `provisional` (the bill),
    `unbilled` (none is known), `unmapped` (nothing here is said to cost anything there by then). `is_off`: above the
    bounds. `alerts`: so was the day before, and neither is one of the last two."""

    day_ms: int
    vendor: str
    service: str
    currency: str
    estimated_micro: int | None
    billed_micro: int | None
    state: str
    is_off: bool
    alerts: bool


@dataclass(frozen=True)
class Cost:
    """What `per_quantity` base units of a feature cost: credits here (None: no rate), and at a vendor money, in its own
    words."""

    feature: str
    vendor: str
    service: str
    unit: str
    units: int
    money_micro: int
    currency: str
    per_quantity: int
    credits_micro: Fraction | None


@dataclass(frozen=True)
class Drifted:
    """All lines, how many of them alert, and the exit status."""

    drift: list[DriftLine]
    alerts: int
    exit_status: int

    @staticmethod
    def of(lines: list[DriftLine]) -> Drifted:
        alerts = sum(line.alerts for line in lines)
        return Drifted(lines, alerts, int(Exit.PERSON if alerts else Exit.SETTLED))


def tell(found: Drifted) -> None:
    """An event for each line that alerts."""
    for line in found.drift:
        if line.alerts:
            log.error("vendor_drift", **vars(line))


def drift(
    connection: sa.Connection, from_ms: int, to_ms: int, now_ms: int, tolerance_ppm: int, least_micro: int
) -> list[DriftLine]:
    """Days in [from_ms, to_ms), by vendor, service, currency and day. Errors: UsageError for a range that is none."""
    if from_ms % DAY_MS or to_ms % DAY_MS or not 0 < to_ms - from_ms <= MAX_DAYS * DAY_MS:
        raise UsageError(f"a range is of whole days, {MAX_DAYS} at most: 2026-01-01 to 2026-02-01")
    values = {"from_ms": from_ms - DAY_MS, "to_ms": to_ms, "at_most": MAX_ROWS + 1}
    estimated, mapped = _estimated(connection, values)
    bills = _rows(connection, "bills", values)
    billed: dict[Key, Any] = {(row.vendor, row.service, row.currency, int(row.day_ms)): row for row in bills}
    lines: list[DriftLine] = []
    fresh = now_ms - now_ms % DAY_MS - FRESH_DAYS * DAY_MS
    off_before: Key | None = None
    for key in sorted({*estimated, *billed}):
        bill = billed.get(key)
        is_mapped = any(start_ms <= key[3] < end_ms for start_ms, end_ms in mapped[key[:3]])
        own = round(estimated[key]) if key in estimated else 0 if is_mapped else None
        theirs = None if bill is None else int(bill.billed_micro)
        is_off = own is not None and theirs is not None and _is_off(own, theirs, tolerance_ppm, least_micro)
        state = "unbilled" if bill is None else "final" if bill.is_final else "provisional"
        alerts = is_off and off_before == (*key[:3], key[3] - DAY_MS) and key[3] < fresh
        off_before = key if is_off else None
        if key[3] >= from_ms:
            shown = state if own is not None else "unmapped"
            lines.append(DriftLine(key[3], *key[:3], own, theirs, shown, is_off, alerts))
    return lines


def costs(connection: sa.Connection, now_ms: int) -> list[Cost]:
    """What each feature, and each metric of the guard, costs now: in credits, and at each vendor."""
    found = []
    for row in SQL.run(connection, "costs", {"now_ms": now_ms}):
        rate = None if row.micro_credits is None else Fraction(int(row.micro_credits), int(row.rate_per))
        names = ("feature", "vendor", "service", "unit", "units", "money_micro", "currency", "per_quantity")
        one = {name: getattr(row, name) for name in names}
        found.append(Cost(**one, credits_micro=None if rate is None else rate * int(row.per_quantity)))
    return found


def _is_off(own: int, theirs: int, tolerance_ppm: int, least_micro: int) -> bool:
    off = abs(theirs - own)
    return off >= least_micro and off * PPM > tolerance_ppm * own


def _estimated(
    connection: sa.Connection, values: Mapping[str, object]
) -> tuple[dict[Key, Fraction], dict[tuple[str, str, str], list[tuple[int, int]]]]:
    """Exact, until all features of a line are added up; and what features are mapped to, on which days."""
    found: dict[Key, Fraction] = defaultdict(Fraction)
    for row in _rows(connection, "estimated", values):
        key = (row.vendor, row.service, row.currency, int(row.day_ms))
        found[key] += Fraction(int(row.quantity) * int(row.money_micro), int(row.per_quantity))
    mapped: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for row in SQL.run(connection, "mapped"):
        mapped[row.vendor, row.service, row.currency].append((int(row.start_ms), int(row.end_ms)))
    return found, mapped


def _rows(connection: sa.Connection, name: str, values: Mapping[str, object]) -> list[Any]:
    found = list(SQL.run(connection, name, values))
    if len(found) > MAX_ROWS:
        raise UsageError(f"these are more than {MAX_ROWS:,} rows: choose a shorter range")
    return found
