"""Acknowledge reported balance differences and unbilled days (R2).

A day is unbilled if the provider does not bill its usage until a person acts. An example is a customer that was deleted
at the provider.

Guarantee: an acknowledgement covers only days that `status` reported, and only those of its organisation. A later
comparison counts such a day as compared only while it cannot be compared without a person. If a push of the day changes
afterwards, the day is reported again, with the difference from the acknowledged quantity.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.sql import queries
from drawdown.schema.text import NEEDS_YOU, counted
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.mapping import FOREVER_MS
from drawdown.worker.push import actions as balances
from drawdown.worker.verdict.rates import Prices, Quantity, Worth

SQL = queries(__file__)

OPEN_AFTER_MS: Final = DAY_MS
"""Age in milliseconds from which a settled push that was not compared counts as open."""

MOST_MARKS: Final = 100
"""Customers with unbilled days that one list or acknowledgement covers. The others stay reported."""

ACTION: Final = "unbilled_acknowledge"


@dataclass(frozen=True)
class Unbilled:
    """Accepted usage of an organisation that its provider does not bill.

    `days`: the number of days, from `first_day` to `last_day`. `quantities`: base units by feature, without quantities
    that were acknowledged before. `by_day`: the same quantities by the start of the day in milliseconds. `worth`: the
    price in words. `until_ms`: all pushes of these days were settled before that time, in milliseconds.
    """

    org_id: str
    provider: str
    customer_id: str
    days: int
    first_day: str
    last_day: str
    quantities: dict[str, int]
    by_day: dict[int, dict[str, int]]
    worth: str
    until_ms: int

    def __str__(self) -> str:
        days = f"{counted(self.days, 'day')} of usage"
        days += f" from {self.first_day} to {self.last_day}" if self.days > 1 else f" on {self.first_day}"
        return f"{self.org_id}, {self.provider} as {self.customer_id}: {days} ({self.worth})"


@dataclass(frozen=True)
class Acknowledged:
    """The balance differences and the days that a person acknowledged.

    The differences are rows of `balance_marks`.
    """

    balances: Sequence[Any]
    unbilled: list[Unbilled]


@dataclass
class Covered:
    """The days and amounts that acknowledgements cover.

    They belong to one organisation and customer. `until_ms`: a time in milliseconds; all days that were settled
    before it are covered. `quantities`: covered base units by feature and day.
    """

    until_ms: int = 0
    quantities: Counter[tuple[str, int]] = field(default_factory=Counter)


def find_unbilled(connection: sa.Connection, org_id: str = "") -> list[Unbilled]:
    """Return the reported days that no provider bills.

    This reads at most MOST_MARKS customers. `org_id`: empty for all organisations.
    """
    prices = Prices(connection)
    return [one for mark in _marks(connection, org_id) for one in _of_mark(connection, mark, org_id, prices)]


def _marks(connection: sa.Connection, org_id: str, *, lock: bool = False) -> Sequence[Any]:
    """Return the marks of customers with reported days.

    `lock`: lock the marks until the transaction ends.
    """
    chosen = {"needs_you": f"{NEEDS_YOU}%", "org_id": org_id, "at_most": MOST_MARKS}
    return SQL.run(connection, "marks_for_person", chosen, locked="for_update" if lock else "").all()


def _of_mark(connection: sa.Connection, mark: Any, org_id: str, prices: Prices) -> list[Unbilled]:
    """Return the reported days of a customer, by organisation.

    `org_id`: empty for all.
    """
    # A day that was settled before `until_ms` was open at the time of the mark, unless it was compared.
    until_ms = int(mark.at_ms) - OPEN_AFTER_MS
    values = {
        "provider": mark.provider,
        "customer_id": mark.customer_id,
        "org_id": org_id,
        "from_ms": int(mark.open_since_ms),
        "to_ms": int(mark.at_ms),
        "since_ms": FOREVER_MS,
        "first_ms": 0,
        "live_from_ms": 0,
    }
    lines = [row for row in SQL.run(connection, "ours", values) if row.customer_id == mark.customer_id]
    compared = {
        (row.org_id, row.feature, row.day_ms): int(row.at_ms) for row in SQL.run(connection, "compared", values)
    }
    covered = read_covered(connection, mark.provider, {str(line.org_id) for line in lines})
    found: list[Unbilled] = []
    for org in sorted({str(line.org_id) for line in lines}):
        before = covered[org, str(mark.customer_id)]
        by_day: dict[int, dict[str, int]] = {}
        for line in lines:
            is_open = line.org_id == org and before.until_ms <= line.touched_ms < until_ms and not line.unsettled
            if is_open and compared.get((line.org_id, line.feature, line.day_ms), -1) < line.touched_ms:
                left = int(line.accepted) - before.quantities[line.feature, line.day_ms]
                by_day.setdefault(int(line.day_ms), {})[str(line.feature)] = left
        if not by_day:
            continue
        quantities = Counter[str]()
        for of_day in by_day.values():
            quantities.update(of_day)
        first, last = show_time(min(by_day))[:10], show_time(max(by_day))[:10]
        worth, about = _worth(mark.provider, [by_day], prices), (org, mark.provider, mark.customer_id)
        found.append(Unbilled(*about, len(by_day), first, last, dict(quantities), by_day, str(worth), until_ms))
    return found


def _worth(provider: str, some: Sequence[dict[int, dict[str, int]]], prices: Prices) -> Worth:
    return prices.worth(
        Quantity(provider, feature, day_ms, quantity)
        for by_day in some
        for day_ms, of_day in by_day.items()
        for feature, quantity in of_day.items()
    )


def acknowledge(connection: sa.Connection, org_id: str, by: By) -> Acknowledged:
    """Acknowledge reported balance differences and unbilled days, and return them.

    If `org_id` is empty, acknowledge the balance differences of all organisations, but no unbilled days. The usage of
    acknowledged days stays unbilled, so a person must check each customer.

    If a reconciliation runs at the same time, it writes its reports later, and these stay unacknowledged.
    """
    seen = balances.acknowledge(connection, org_id, by)
    prices, unbilled = Prices(connection), list[Unbilled]()
    for mark in _marks(connection, org_id, lock=True) if org_id else ():
        found = _of_mark(connection, mark, org_id, prices)
        for one in found:
            details = {
                "provider": one.provider,
                "customer": one.customer_id,
                "days": one.days,
                "first_day": one.first_day,
                "last_day": one.last_day,
                "quantities": one.quantities,
                "quantities_by_day": one.by_day,
                "until_ms": one.until_ms,
            }
            record(connection, ACTION, one.org_id, details, by)
        if found:
            _report_others(connection, mark, prices)
        unbilled += found
    return Acknowledged(seen, unbilled)


def _report_others(connection: sa.Connection, mark: Any, prices: Prices) -> None:
    """Report only the days of the other organisations of this customer.

    If there are no such days, close the mark.
    """
    left = _of_mark(connection, mark, "", prices)
    days = {day_ms for one in left for day_ms in one.by_day}
    reason = mark.said.rpartition(" (")[0] or mark.said
    values = {
        "provider": mark.provider,
        "customer_id": mark.customer_id,
        "open_days": len(days),
        "open_since_ms": min(days, default=None),
        "said": with_worth(reason, _worth(mark.provider, [one.by_day for one in left], prices)) if left else "",
    }
    SQL.run(connection, "report_others", values)


def with_worth(reason: str, worth: Worth) -> str:
    """Return the reason of open days, followed by the price of their usage.

    A mark stores this text.
    """
    return f"{reason} ({worth})"


def read_covered(
    connection: sa.Connection, provider: str, org_ids: Collection[str]
) -> defaultdict[tuple[str, str], Covered]:
    """Return the covered days and amounts, by organisation and customer."""
    found: defaultdict[tuple[str, str], Covered] = defaultdict(Covered)
    values = {"orgs": [{"org_id": org_id} for org_id in sorted(org_ids)], "action": ACTION}
    for row in SQL.run(connection, "acknowledged", values) if org_ids else ():
        details = json.loads(row.details)
        if details["provider"] == provider:
            covered = found[str(row.target), str(details["customer"])]
            covered.until_ms = max(covered.until_ms, int(details["until_ms"]))
            for day_ms, of_day in details.get("quantities_by_day", {}).items():
                covered.quantities.update({(feature, int(day_ms)): quantity for feature, quantity in of_day.items()})
    return found
