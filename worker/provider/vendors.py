"""What a person says of vendors: what features cost there, and what they billed.

Guarantee: both are append-only, on record with who and why. The same file again adds nothing. A vendor's day that is
final is replaced by nothing that is not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.errors import DatabaseBusy, Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.provider.vendor_bills import BillFile

SQL = queries(__file__)

MAX_UNITS: Final = 10**15
"""Of a vendor's units, of its money in millionths, and of the base units that they are for."""


@dataclass(frozen=True)
class Units:
    """`per_quantity` base units of a feature, or of a metric of the guard, take so many `units` (of the word `unit`)
    and cost `money_micro`."""

    vendor: str
    service: str
    unit: str
    units: int
    money_micro: int
    per_quantity: int
    currency: str


def set_units(connection: sa.Connection, feature: str, units: Units, from_ms: int, by: By, *, new: bool) -> None:
    """From the begin of a day on. Errors: UsageError; UnknownId, unless `new`, for what is neither a feature that
    something makes nor a metric of the guard; Refused where something else holds from then."""
    ids.require(connection, ids.COSTING, feature, new=new)
    if not all(map(is_clean_id, (units.vendor, units.service, units.unit))):
        raise UsageError("a vendor, a service and a unit have 1 to 200 characters, none of them control characters")
    if from_ms % DAY_MS:
        raise UsageError("what a vendor costs begins with a day: 2026-01-31")
    if not (0 < units.per_quantity <= MAX_UNITS and max(units.units, units.money_micro) <= MAX_UNITS):
        raise UsageError(f"units, money and quantity are whole numbers up to {MAX_UNITS:,}")
    values = {**vars(units), "feature": feature, "start_ms": from_ms}
    said = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    if SQL.run(connection, "insert_units", {**values, **said}).first() is None:
        kept = SQL.run(connection, "units", values).mappings().one()
        if any(kept[name] != values[name] for name in kept):
            begun = set(SQL.run(connection, "days_of_units", values).scalars())
            free = next(day for day in count(from_ms + DAY_MS, DAY_MS) if day not in begun)
            raise Refused(
                f"{feature} costs something else at {units.vendor} from {utc(from_ms)[:10]} on already; that is "
                f"append-only: the earliest day for another is --from {utc(free)[:10]}, and days between are estimated "
                "by what there is"
            )
        return
    record(connection, "vendor_set", feature, values, by)


def import_bills(connection: sa.Connection, file: BillFile, by: By) -> bool:
    """Take a file's bills; whether they are new. Of a vendor's day they replace all that was known.

    Errors: Refused where a day is final and the file's is not; DatabaseBusy where another file comes in this moment.
    """
    values = {"import_id": file.import_id, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    number = SQL.run(connection, "insert_import", values).scalar()
    if number is None:
        if SQL.run(connection, "imported", values).first() is None:
            raise DatabaseBusy("another file of bills is imported this moment: try again")
        return False
    days = {(line.vendor, line.day_ms) for line in file.lines if not line.is_final}
    rows = [{"vendor": vendor, "day_ms": day} for vendor, day in sorted(days)]
    final = SQL.run(connection, "final_days", {"days": rows}).first() if rows else None
    if final is not None:
        raise Refused(f"{final.vendor}: a day of this file is final already: import its invoice with --final")
    SQL.run(connection, "insert_bills", [{**vars(line), "number": number} for line in file.lines])
    record(connection, "vendor_import", file.import_id, {"lines": len(file.lines), "billed_micro": _sums(file)}, by)
    return True


def _sums(file: BillFile) -> dict[str, int]:
    """By currency, for the record."""
    found: Counter[str] = Counter()
    for line in file.lines:
        found[line.currency] += line.billed_micro
    return dict(found)
