"""Vendors' bills from files: FOCUS columns, or a small CSV. Pure, but for opening the file.

Guarantee: amounts are added up exactly, and rounded once, to a millionth of the currency, for each vendor, service, day
and currency; two currencies are never added. A file that is not exactly as asked for is refused as a whole. So is one
of corrections: a day is replaced, never added to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import why_unread
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.sources.table import Table, Unfit

MAX_FILE_BYTES: Final = 64 << 20
MAX_LINES: Final = 100_000
"""Of one file, once they are added up: a vendor, service, day and currency each."""
MAX_AMOUNT: Final = 10**9
"""Of one line, in the currency."""
MAX_AMOUNT_CHARS: Final = 40
SMALL: Final = {"day": "day", "vendor": "vendor", "service": "service", "amount": "amount", "currency": "currency"}
FOCUS: Final = {
    "day": "ChargePeriodStart", "vendor": "ProviderName", "service": "ServiceName", "amount": "BilledCost",
    "currency": "BillingCurrency",
}  # fmt: skip
"""Columns of the FinOps Open Cost and Usage Specification 1.0 to 1.2; others are passed over, but for these two."""
INVOICE: Final = "InvoiceId"
CLASS: Final = "ChargeClass"
CORRECTION: Final = (
    f"{CLASS} is Correction: it says by how much an earlier bill was wrong, and of a vendor's day the latest file "
    "holds, whole; nothing of this file was taken: give a file of that day as it stands now, whole, with what was "
    f"corrected in its amounts (its columns may be {', '.join(SMALL.values())}, final)"
)
_EXACT: Final = Context(prec=80)
_DAY: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?(?:Z| ?UTC|\+00:?00)?)?"
)
"""A day, or a moment of it in UTC."""
_AMOUNT: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CURRENCY: Final = re.compile("[A-Z]{3}")


@dataclass(frozen=True)
class BillLine:
    """What a vendor billed for a service on a day (UTC), in millionths of the currency."""

    vendor: str
    service: str
    day_ms: int
    currency: str
    billed_micro: int
    is_final: bool


@dataclass(frozen=True)
class BillFile:
    """A file's lines, added up, and what it is known by: the hash of its bytes and of whether it is final."""

    import_id: str
    lines: list[BillLine]


def read_bills(name: str, *, is_final: bool) -> BillFile:
    """A file's bills. With `is_final`, or where all lines of a vendor's day have an invoice (`InvoiceId`, or `final`
    as `true`), a day is final. Errors: UsageError naming the line."""
    raw = _raw(name)
    number = 1
    sums: dict[tuple[str, str, int, str], Decimal] = {}
    open_days: set[tuple[str, int]] = set()
    try:
        for line, row in _rows(raw.decode().removeprefix("\ufeff")):
            number = line
            key, amount, final = _line(row)
            sums[key] = _EXACT.add(sums.get(key, Decimal(0)), amount)
            if len(sums) > MAX_LINES:
                raise ValueError(
                    f"these are more than {MAX_LINES:,} vendors' services and days: give fewer days at once"
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
        raise UsageError(f"{name}: it has no lines")
    lines = [BillLine(*key, _micro(total), (key[0], key[2]) not in open_days) for key, total in sorted(sums.items())]
    return BillFile(hashlib.sha256(b"final\n" * is_final + raw).hexdigest(), lines)


def _raw(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: {getattr(error, 'strerror', None) or error}; give a file that can be read"
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"{name}: is larger than {MAX_FILE_BYTES >> 20} MiB: give fewer days at once")
    return raw


def _rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Each line by our names of its columns."""
    table = Table(text)
    heads = [head.strip() for head in next(table, [])]
    names: Mapping[str, str] = FOCUS if FOCUS["amount"] in heads else SMALL
    if lacking := [head for head in names.values() if heads.count(head) != 1]:
        raise ValueError(f"the column {lacking[0]} has to be there once: {', '.join(names.values())}")
    final = INVOICE if names is FOCUS else "final"
    for fields in table:
        if fields:
            if len(fields) != len(heads):
                raise Unfit(table.line, f"{len(fields)} fields, and the head has {len(heads)}")
            row = dict(zip(heads, fields, strict=True))
            said = row.get(final, "").strip()
            is_final = bool(said) if names is FOCUS else said == "true"
            if names is SMALL and said not in ("", "true", "false"):
                raise Unfit(table.line, "final is neither true nor false")
            if names is FOCUS and row.get(CLASS, "").strip().casefold() == "correction":
                raise Unfit(table.line, CORRECTION)
            yield table.line, {**{ours: row[theirs] for ours, theirs in names.items()}, "final": "1" * is_final}


def _line(row: Mapping[str, str]) -> tuple[tuple[str, str, int, str], Decimal, bool]:
    for name in ("vendor", "service"):
        if not is_clean_id(row[name]):
            raise ValueError(f"{name} has 1 to 200 characters, none of them control characters")
    found = _DAY.fullmatch(row["day"])
    if found is None:
        raise ValueError("the day is none such as 2026-01-31, in UTC")
    day_ms = (date.fromisoformat(found[1]) - date(1970, 1, 1)).days * DAY_MS
    if day_ms < 0:
        raise ValueError("the day lies before 1970")
    if not _CURRENCY.fullmatch(row["currency"]):
        raise ValueError("the currency is none such as USD")
    return (row["vendor"], row["service"], day_ms, row["currency"]), _amount(row["amount"]), bool(row["final"])


def _amount(text: str) -> Decimal:
    try:
        if len(text) > MAX_AMOUNT_CHARS or _AMOUNT.fullmatch(text) is None:
            raise InvalidOperation
        amount = Decimal(text)
    except InvalidOperation as error:
        raise ValueError("the amount is no decimal number") from error
    if amount.copy_abs() > MAX_AMOUNT or (amount and amount.adjusted() < -MAX_AMOUNT_CHARS):
        raise ValueError(f"the amount is no number of the currency up to {MAX_AMOUNT:,}")
    return amount


def _micro(total: Decimal) -> int:
    return int(_EXACT.multiply(total, Decimal(MICRO)).to_integral_value(ROUND_HALF_EVEN))
