"""Vendors, their bills, and the expected cost of usage.

A feature, or a metric of the guard, can have a cost at each vendor.

Guarantee: costs and bills are append-only, and recorded with actor and reason. If a file was imported before, a
repeated import does not add rows. Only a final bill replaces a final day. A file has FOCUS columns, or is a small CSV.
A file without the required form is refused as a whole, and so is a file of corrections. Amounts are added up exactly
and rounded once. Amounts in different currencies are never added together. The bill of a day without bills is unknown,
not zero. A service without a cost in this database has its own line. A difference causes an alert only on the second of
two successive days, and not on today or the two days before it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.errors import DatabaseBusy, Exit, Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value, why_unread
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, MICRO, as_credits
from drawdown.worker.sources.table import Table, Unfit

log = structlog.get_logger()

SQL = queries(__file__)

MAX_UNITS: Final = 10**15
"""Largest number in a vendor's bill or price.

It limits units, money in millionths, and the base units of a price.
"""


@dataclass(frozen=True)
class Units:
    """The cost of a feature, or of a metric of the guard, at a vendor.

    `per_quantity` base units use `units` of the vendor's `unit`, and cost `money_micro` millionths of the currency.
    """

    vendor: str
    service: str
    unit: str
    units: int
    money_micro: int
    per_quantity: int
    currency: str


def set_units(connection: sa.Connection, feature: str, units: Units, from_ms: int, by: By, *, new: bool) -> None:
    """Set the cost of a feature at a vendor, from the start of a UTC day on.

    If the same cost already begins on that day, nothing changes.

    Errors: UsageError for an invalid name, day or amount. UnknownId, unless `new`, for a name that is neither a feature
    nor a metric of the guard. Refused if another cost begins on that day.
    """
    ids.require(connection, ids.COSTING, feature, new=new)
    names = (units.vendor, units.service, units.unit)
    if not all(map(is_clean_id, names)):
        wrong = next(name for name in names if not is_clean_id(name))
        raise UsageError(
            f"invalid vendor, service or unit {quote_value(wrong)}: expected 1 to 200 characters without control "
            "characters"
        )
    if from_ms % DAY_MS:
        raise UsageError(f"invalid start of a cost {show_time(from_ms)}: expected a day, such as 2026-01-31")
    bounded = all(0 <= amount <= MAX_UNITS for amount in (units.units, units.money_micro))
    if not (bounded and 0 < units.per_quantity <= MAX_UNITS):
        raise UsageError(
            f"invalid cost of {counted(units.units, 'unit')} and {as_credits(units.money_micro)} {units.currency} per "
            f"{units.per_quantity:,}: expected 0 to {MAX_UNITS:,} units and 0 to {MAX_UNITS // MICRO:,} "
            f"{units.currency}, per 1 to {MAX_UNITS:,} base units"
        )
    values = {**vars(units), "feature": feature, "start_ms": from_ms}
    said = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    if SQL.run(connection, "insert_units", {**values, **said}).first() is None:
        kept = SQL.run(connection, "units", values).mappings().one()
        if any(kept[name] != values[name] for name in kept):
            begun = set(SQL.run(connection, "days_of_units", values).scalars())
            free = next(day for day in count(from_ms + DAY_MS, DAY_MS) if day not in begun)
            raise Refused(
                f"{feature} already has another cost at {units.vendor} from {utc(from_ms)[:10]} on, and costs are "
                f"append-only. Pass --from {utc(free)[:10]}, the earliest day for a new cost. Estimates of earlier "
                "days use the existing cost"
            )
        return
    record(connection, "vendor_set", feature, values, by)


def import_bills(connection: sa.Connection, file: BillFile, by: By) -> bool:
    """Import a file's bills, and return True if they are new.

    For each vendor and day in the file, the new bills replace all bills that were imported before.

    Errors: Refused if a stored day is final and the file's bill for it is not. DatabaseBusy if another file is being
    imported.
    """
    values = {"import_id": file.import_id, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    number = SQL.run(connection, "insert_import", values).scalar()
    if number is None:
        if SQL.run(connection, "imported", values).first() is None:
            raise DatabaseBusy("another call is importing a file of bills. Try again")
        return False
    days = {(line.vendor, line.day_ms) for line in file.lines if not line.is_final}
    rows = [{"vendor": vendor, "day_ms": day} for vendor, day in sorted(days)]
    final = SQL.run(connection, "final_days", {"days": rows}).first() if rows else None
    if final is not None:
        raise Refused(
            f"cannot replace the bill of {final.vendor}: {show_time(int(final.day_ms))[:10]} is already final. Import "
            "the vendor's invoice with --final"
        )
    SQL.run(connection, "insert_bills", [{**vars(line), "number": number} for line in file.lines])
    record(connection, "vendor_import", file.import_id, {"lines": len(file.lines), "billed_micro": _sums(file)}, by)
    return True


def _sums(file: BillFile) -> dict[str, int]:
    """Return the sums of a file by currency, in millionths, for the audit."""
    found: Counter[str] = Counter()
    for line in file.lines:
        found[line.currency] += line.billed_micro
    return dict(found)


MAX_FILE_BYTES: Final = 64 << 20
"""Largest size of a file of vendors' bills, in bytes."""
MAX_LINES: Final = 100_000
"""Most sums in one file of bills.

Each sum is for a vendor, service, day and currency.
"""
MAX_AMOUNT: Final = 10**9
"""Largest amount of a bill, in units of its currency, positive or negative."""
MAX_AMOUNT_CHARS: Final = 40
"""Most characters of an amount of a bill."""
SMALL: Final = {"day": "day", "vendor": "vendor", "service": "service", "amount": "amount", "currency": "currency"}
FOCUS: Final = {
    "day": "ChargePeriodStart", "vendor": "ProviderName", "service": "ServiceName", "amount": "BilledCost",
    "currency": "BillingCurrency",
}  # fmt: skip
"""Columns of the FinOps Open Cost and Usage Specification 1.0 to 1.2.

INVOICE and CLASS are read, too.
"""
INVOICE: Final = "InvoiceId"
CLASS: Final = "ChargeClass"
CORRECTION: Final = (
    f"{CLASS} is Correction: the line corrects an earlier bill, but each file replaces the whole day of a vendor. "
    "Drawdown did not import this file. Import a file of the whole day with the corrected amounts (its columns may "
    f"be {', '.join(SMALL.values())}, final)"
)
_EXACT: Final = Context(prec=80)
_DAY: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?(?:Z| ?UTC|\+00:?00)?)?"
)
"""The form of a day, or of a time in UTC."""
_AMOUNT: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CURRENCY: Final = re.compile("[A-Z]{3}")


@dataclass(frozen=True)
class BillLine:
    """A vendor's bill for a service on a day (UTC), in millionths of the currency.

    `is_final`: the vendor's day is final, as `read_bills` defines it.
    """

    vendor: str
    service: str
    day_ms: int
    currency: str
    billed_micro: int
    is_final: bool


@dataclass(frozen=True)
class BillFile:
    """A file's bills, added up.

    `import_id`: the SHA-256 in hex of the file's bytes and of the `is_final` passed to `read_bills`.
    """

    import_id: str
    lines: list[BillLine]


def read_bills(name: str, *, is_final: bool) -> BillFile:
    """Read a file's bills.

    A vendor's day is final if `is_final` is True, or if all its lines have an invoice (`InvoiceId`, or `final` as
    `true`).

    Errors: UsageError for a file that cannot be read or is invalid. For an invalid line, the error names the line.
    """
    raw = _raw(name)
    number = 1
    sums: dict[tuple[str, str, int, str], Decimal] = {}
    open_days: set[tuple[str, int]] = set()
    try:
        for line, row in _read_rows(raw.decode().removeprefix("\ufeff")):
            number = line
            key, amount, final = _line(row)
            sums[key] = _EXACT.add(sums.get(key, Decimal(0)), amount)
            if len(sums) > MAX_LINES:
                raise ValueError(
                    f"the file has more than {MAX_LINES:,} combinations of vendor, service, day and currency. Pass "
                    "fewer days at once"
                )
            if not (is_final or final):
                open_days.add((key[0], key[2]))
    except UnicodeDecodeError as error:
        at = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}, line {at}: {why_unread(error)}") from error
    except ValueError as error:
        at = error.line if isinstance(error, Unfit) else number
        raise UsageError(f"{name}, line {at}: {error}") from error
    if not sums:
        raise UsageError(f"{name}: the file does not have bill lines. Name a file with a header and bill lines")
    lines = [BillLine(*key, _micro(total), (key[0], key[2]) not in open_days) for key, total in sorted(sums.items())]
    return BillFile(hashlib.sha256(b"final\n" * is_final + raw).hexdigest(), lines)


def _raw(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: {getattr(error, 'strerror', None) or error}. Name a file that Drawdown can read"
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"{name}: the file is larger than {MAX_FILE_BYTES >> 20} MiB. Pass fewer days at once")
    return raw


def _read_rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row with its line number, by the names of `SMALL` for its columns.

    Errors: ValueError.
    """
    table = Table(text)
    heads = [head.strip() for head in next(table, [])]
    names: Mapping[str, str] = FOCUS if FOCUS["amount"] in heads else SMALL
    if lacking := [head for head in names.values() if heads.count(head) != 1]:
        raise ValueError(f"the column {lacking[0]} must appear exactly once: expected {', '.join(names.values())}")
    final = INVOICE if names is FOCUS else "final"
    for fields in table:
        if fields:
            if len(fields) != len(heads):
                raise Unfit(table.line, f"expected {len(heads)} fields, as in the header, and found {len(fields)}")
            row = dict(zip(heads, fields, strict=True))
            said = row.get(final, "").strip()
            is_final = bool(said) if names is FOCUS else said == "true"
            if names is SMALL and said not in ("", "true", "false"):
                raise Unfit(table.line, f"invalid final {quote_value(said)}: expected true or false")
            if names is FOCUS and row.get(CLASS, "").strip().casefold() == "correction":
                raise Unfit(table.line, CORRECTION)
            yield table.line, {**{ours: row[theirs] for ours, theirs in names.items()}, "final": "1" * is_final}


def _line(row: Mapping[str, str]) -> tuple[tuple[str, str, int, str], Decimal, bool]:
    for name in ("vendor", "service"):
        if not is_clean_id(row[name]):
            raise ValueError(
                f"invalid {name} {quote_value(row[name])}: expected 1 to 200 characters without control characters"
            )
    found = _DAY.fullmatch(row["day"])
    if found is None:
        raise ValueError(f"invalid day {quote_value(row['day'])}: expected a day or a time in UTC, such as 2026-01-31")
    day_ms = (date.fromisoformat(found[1]) - date(1970, 1, 1)).days * DAY_MS
    if day_ms < 0:
        raise ValueError(f"invalid day {quote_value(row['day'])}: expected 1970-01-01 or later")
    if not _CURRENCY.fullmatch(row["currency"]):
        raise ValueError(f"invalid currency {quote_value(row['currency'])}: expected three capitals, such as USD")
    return (row["vendor"], row["service"], day_ms, row["currency"]), _amount(row["amount"]), bool(row["final"])


def _amount(text: str) -> Decimal:
    try:
        if len(text) > MAX_AMOUNT_CHARS or _AMOUNT.fullmatch(text) is None:
            raise InvalidOperation
        amount = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(
            f"invalid amount {quote_value(text)}: expected a decimal number of at most {MAX_AMOUNT_CHARS} characters, "
            "such as 12.50"
        ) from error
    if amount.copy_abs() > MAX_AMOUNT or (amount and amount.adjusted() < -MAX_AMOUNT_CHARS):
        raise ValueError(
            f"invalid amount {quote_value(text)}: expected 0, or an amount of the currency from "
            f"1e-{MAX_AMOUNT_CHARS} to {MAX_AMOUNT:,}, with or without a minus"
        )
    return amount


def _micro(total: Decimal) -> int:
    return int(_EXACT.multiply(total, Decimal(MICRO)).to_integral_value(ROUND_HALF_EVEN))


TOLERANCE_PPM: Final = 150_000
LEAST_MICRO: Final = 1_000_000
"""Smallest difference that counts as drift, in millionths of the currency.

A smaller difference is ignored at any percentage.
"""
FRESH_DAYS: Final = 2
"""Days before today for which vendors may still add costs. These days and today do not cause an alert."""
SPAN_DAYS: Final = 14
"""Days that a comparison of bills covers if its range is not given.

It also covers an earlier day for SPAN_DAYS days after the first import of that day's bill.
"""
MAX_DAYS: Final = 400
"""Most days of one comparison of bills."""
MAX_ROWS: Final = 100_000
"""Rows of bills, or of usage, that one comparison reads."""
PPM: Final = 1_000_000
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class DriftLine:
    """A vendor's service on one day, in millionths of the currency.

    `estimated_micro`: the cost of the usage (None: the service is unmapped). `billed_micro`: the bill (None: unknown).
    `state`: `final` or `provisional` (of the bill), `unbilled` (the bill is unknown), or `unmapped` (the service has no
    cost on that day). `is_off`: the difference between both amounts exceeds the bounds. `alerts`: the difference of the
    day before also exceeded them, and the day is neither today nor one of the FRESH_DAYS before today.
    """

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
    """The cost of a feature in micro-credits and at a vendor.

    Each amount is for `per_quantity` base units of the feature. `units`: the vendor's units, of the kind `unit`.
    `money_micro`: millionths of `currency`. `credits_micro` None: the feature lacks a rate.
    """

    feature: str
    vendor: str
    service: str
    unit: str
    units: int
    money_micro: int
    currency: str
    per_quantity: int
    credits_micro: int | None


@dataclass(frozen=True)
class Drifted:
    """The lines of a comparison, the number of lines that alert, and the exit status."""

    drift: list[DriftLine]
    alerts: int
    exit_status: int

    @staticmethod
    def of(lines: list[DriftLine]) -> Drifted:
        alerts = sum(line.alerts for line in lines)
        return Drifted(lines, alerts, int(Exit.PERSON if alerts else Exit.SETTLED))


def tell(found: Drifted) -> None:
    """Log an error for each line that alerts."""
    for line in found.drift:
        if line.alerts:
            log.error("vendor_drift", **vars(line))


def drift(
    connection: sa.Connection, from_ms: int, to_ms: int, now_ms: int, tolerance_ppm: int, least_micro: int
) -> list[DriftLine]:
    """Compare estimates with bills of the UTC days in [from_ms, to_ms).

    Return a line for each vendor, service, currency and day, in this order. Errors: UsageError for an invalid range, or
    for more than MAX_ROWS rows.
    """
    if from_ms % DAY_MS or to_ms % DAY_MS or not 0 < to_ms - from_ms <= MAX_DAYS * DAY_MS:
        raise UsageError(
            f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: expected whole days, at most {MAX_DAYS}, such "
            "as 2026-01-01 to 2026-02-01"
        )
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


def drift_of(
    connection: sa.Connection, from_ms: int | None, to_ms: int | None, now_ms: int, tolerance_ppm: int, least_micro: int
) -> list[DriftLine]:
    """Compare estimates with bills, as `drift` does.

    `from_ms` None: SPAN_DAYS before the end. `to_ms` None: today. If both are None, compare as `drift_now` does.
    Errors: as `drift`.
    """
    if from_ms is None and to_ms is None:
        return drift_now(connection, now_ms, tolerance_ppm, least_micro)
    end = now_ms - now_ms % DAY_MS if to_ms is None else to_ms
    start = end - SPAN_DAYS * DAY_MS if from_ms is None else from_ms
    return drift(connection, start, end, now_ms, tolerance_ppm, least_micro)


def drift_now(connection: sa.Connection, now_ms: int, tolerance_ppm: int, least_micro: int) -> list[DriftLine]:
    """Compare estimates with bills of the last SPAN_DAYS days before today.

    Also compare a vendor's earlier days, at most MAX_DAYS before today, if their bills were first imported in the last
    SPAN_DAYS days. The day after each of these is compared, too, because only the second of two successive days causes
    an alert.

    Lines and errors are those of `drift`.
    """
    span_ms, to_ms = SPAN_DAYS * DAY_MS, now_ms - now_ms % DAY_MS
    from_ms, bounds = to_ms - span_ms, (now_ms, tolerance_ppm, least_micro)
    lines = drift(connection, from_ms, to_ms, *bounds)
    values = {"from_ms": to_ms - MAX_DAYS * DAY_MS, "to_ms": from_ms, "since_ms": now_ms - span_ms}
    late = _rows(connection, "imported_late", {**values, "at_most": MAX_ROWS + 1})
    days = {(str(row.vendor), int(row.day_ms)) for row in late}
    days |= {(vendor, day_ms + DAY_MS) for vendor, day_ms in days}
    for back in {(from_ms - day_ms - 1) // span_ms for _, day_ms in days if day_ms < from_ms}:
        end_ms = from_ms - back * span_ms
        earlier = drift(connection, end_ms - span_ms, end_ms, *bounds)
        lines += [line for line in earlier if (line.vendor, line.day_ms) in days]
    return sorted(lines, key=lambda line: (line.vendor, line.service, line.currency, line.day_ms))


def most_urgent(lines: Sequence[DriftLine], most: int) -> list[DriftLine]:
    """Return at most `most` lines, in their order.

    If there are more, prefer lines that alert, then lines that are off.
    """
    ranked = sorted(range(len(lines)), key=lambda place: (not lines[place].alerts, not lines[place].is_off, -place))
    return [lines[place] for place in sorted(ranked[:most])]


def costs(connection: sa.Connection, now_ms: int) -> list[Cost]:
    """Return the present costs of features and of the guard's metrics.

    Each row has the cost in micro-credits, and the cost at one vendor.
    """
    found = []
    for row in SQL.run(connection, "costs", {"now_ms": now_ms}):
        rate = None if row.micro_credits is None else Fraction(int(row.micro_credits), int(row.rate_per))
        names = ("feature", "vendor", "service", "unit", "units", "money_micro", "currency", "per_quantity")
        one = {name: getattr(row, name) for name in names}
        found.append(Cost(**one, credits_micro=None if rate is None else round(rate * int(row.per_quantity))))
    return found


def _is_off(own: int, theirs: int, tolerance_ppm: int, least_micro: int) -> bool:
    off = abs(theirs - own)
    return off >= least_micro and off * PPM > tolerance_ppm * own


def _estimated(
    connection: sa.Connection, values: Mapping[str, object]
) -> tuple[dict[Key, Fraction], dict[tuple[str, str, str], list[tuple[int, int]]]]:
    """Return the exact expected costs, and the spans with a cost.

    The spans are by vendor, service and currency.
    """
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
        raise UsageError(f"the range has more than {MAX_ROWS:,} rows. Choose a shorter range")
    return found
