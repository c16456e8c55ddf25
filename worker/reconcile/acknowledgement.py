"""Acknowledge reported balance differences and unbilled days (R2).

A day is unbilled if its provider does not bill it until a person acts. An example is a customer that was deleted at the
provider.

Guarantee: an acknowledgement covers only days that `status` reported. A later comparison passes such a day only while
a person is still needed to read it. If a push of the day changes afterwards, the day is reported again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.sql import queries
from drawdown.schema.text import NEEDS_YOU, counted
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.mapping import FOREVER_MS
from drawdown.worker.push import actions as balances
from drawdown.worker.verdict.rates import Prices, Quantity

SQL = queries(__file__)

OPEN_AFTER_MS: Final = DAY_MS
"""Milliseconds after which a settled push without a comparison counts as open."""

MOST_MARKS: Final = 100
"""Customers of unbilled days that one list or acknowledgement covers. The others stay reported."""

ACTION: Final = "unbilled_acknowledge"


@dataclass(frozen=True)
class Unbilled:
    """Accepted usage of an organisation that its provider does not bill.

    `days`: the number of days, from `first_day` to `last_day`. `quantities`: base units by feature. `worth`: the price
    in words. `until_ms`: all pushes of these days were settled before that time, in milliseconds.
    """

    org_id: str
    provider: str
    customer_id: str
    days: int
    first_day: str
    last_day: str
    quantities: dict[str, int]
    worth: str
    until_ms: int

    def __str__(self) -> str:
        days = f"{counted(self.days, 'day')} of usage"
        days += f" from {self.first_day} to {self.last_day}" if self.days > 1 else f" on {self.first_day}"
        return f"{self.org_id}, {self.provider} as {self.customer_id}: {days} ({self.worth})"


@dataclass(frozen=True)
class Acknowledged:
    """The differences of balances (rows of `balance_marks`) and the days that a person acknowledged."""

    balances: Sequence[Any]
    unbilled: list[Unbilled]


def find_unbilled(connection: sa.Connection, org_id: str = "", *, lock: bool = False) -> list[Unbilled]:
    """Return the reported days that no provider bills, of at most MOST_MARKS customers.

    `org_id`: empty for all organisations. `lock`: lock the marks until the transaction ends.
    """
    locked, prices = "for_update" if lock else "", Prices(connection)
    found: list[Unbilled] = []
    chosen = {"needs_you": f"{NEEDS_YOU}%", "org_id": org_id, "at_most": MOST_MARKS}
    for mark in SQL.run(connection, "marks_for_person", chosen, locked=locked).all():
        until_ms = int(mark.at_ms) - OPEN_AFTER_MS  # each day that was settled before was open in that comparison
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
        passed = acknowledged_until_ms(connection, mark.provider, {str(line.org_id) for line in lines})
        left = [
            line
            for line in lines
            if passed.get((str(line.org_id), str(mark.customer_id)), 0) <= line.touched_ms < until_ms
            and not line.unsettled
            and compared.get((line.org_id, line.feature, line.day_ms), -1) < line.touched_ms
        ]
        for org in sorted({str(line.org_id) for line in left}):
            its = [line for line in left if line.org_id == org]
            quantities = Counter[str]()
            for line in its:
                quantities[str(line.feature)] += int(line.accepted)
            worth = prices.worth(Quantity(mark.provider, line.feature, line.day_ms, int(line.accepted)) for line in its)
            days = sorted({int(line.day_ms) for line in its})
            first, last = show_time(days[0])[:10], show_time(days[-1])[:10]
            about = (org, mark.provider, mark.customer_id)
            found.append(Unbilled(*about, len(days), first, last, dict(quantities), str(worth), until_ms))
    return found


def acknowledge(connection: sa.Connection, org_id: str, by: By) -> Acknowledged:
    """Acknowledge reported balance differences and unbilled days, and return them.

    If `org_id` is empty, acknowledge the balance differences of all organisations, and no unbilled days. Their usage
    would stay unbilled without a look at each customer.

    A reconciliation that runs meanwhile writes its reports later, and they stay unacknowledged.
    """
    seen = balances.acknowledge(connection, org_id, by)
    unbilled = find_unbilled(connection, org_id, lock=True) if org_id else []
    for one in unbilled:
        about = {"provider": one.provider, "customer_id": one.customer_id}
        SQL.run(connection, "close_mark", about)
        span = {"days": one.days, "first_day": one.first_day, "last_day": one.last_day}
        details = {"provider": one.provider, "customer": one.customer_id, **span}
        record(connection, ACTION, one.org_id, {**details, "quantities": one.quantities, "until_ms": one.until_ms}, by)
    return Acknowledged(seen, unbilled)


def acknowledged_until_ms(
    connection: sa.Connection, provider: str, org_ids: Collection[str]
) -> dict[tuple[str, str], int]:
    """Return the times before which settled days are acknowledged, by organisation and customer."""
    found: dict[tuple[str, str], int] = {}
    values = {"orgs": [{"org_id": org_id} for org_id in sorted(org_ids)], "action": ACTION}
    for row in SQL.run(connection, "acknowledged", values) if org_ids else ():
        details = json.loads(row.details)
        if details["provider"] == provider:
            pair = (str(row.target), str(details["customer"]))
            found[pair] = max(found.get(pair, 0), int(details["until_ms"]))
    return found
