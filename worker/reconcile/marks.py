"""How far what was accepted has been compared with a provider, by customer: the high-water marks of reconcile (R2).

Guarantee: a mark moves only past what was compared. A night that is skipped, or whose totals cannot be read, leaves the
mark where it is, and the next run compares from there. Days that stay open are counted, with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

OPEN_AFTER_MS: Final = DAY_MS
"""What was settled so long ago, and is not compared, is open; what is younger waits for its turn."""
FIRST_LOOK_MS: Final = 35 * DAY_MS
"""How far back a customer is compared who never was."""


@dataclass(frozen=True)
class Settled:
    """A day of a customer's, when something of it was settled last, and why it was not compared, if it was not."""

    customer_id: str
    day_ms: int
    settled_ms: int
    left: str = ""


def compared_to_ms(connection: sa.Connection, provider: str) -> int | None:
    """Up to when a provider was compared; None: never."""
    found = SQL.run(connection, "provider_mark", {"provider": provider}).scalar_one_or_none()
    return None if found is None else int(found)


def keep_marks(connection: sa.Connection, *, provider: str, days: Sequence[Settled], to_ms: int, now_ms: int) -> None:
    """Move the marks of a provider and its customers: past what was compared, and no further than `to_ms`."""
    by_customer: dict[str, list[Settled]] = {}
    for day in days:
        by_customer.setdefault(day.customer_id, []).append(day)
    marks = [dict(_mark(customer, found, to_ms, now_ms)) for customer, found in sorted(by_customer.items())]
    its = {"provider": provider, "now_ms": now_ms}
    provider_mark = {"customer_id": "", "compared_ms": to_ms, "open_days": 0, "open_since_ms": None, "said": ""}
    SQL.run(connection, "keep", {**its, "marks": [*marks, provider_mark]})
    SQL.run(connection, "close_others", {**its, "marks": [{"customer_id": mark["customer_id"]} for mark in marks]})


def _mark(customer: str, days: Collection[Settled], to_ms: int, now_ms: int) -> Iterator[tuple[str, object]]:
    left = [day for day in days if day.left]
    open_ = [day for day in left if day.settled_ms < now_ms - OPEN_AFTER_MS]
    yield "customer_id", customer
    yield "compared_ms", min([to_ms, *(day.settled_ms for day in left)])
    yield "open_days", len({day.day_ms for day in open_})
    yield "open_since_ms", min((day.day_ms for day in open_), default=None)
    yield "said", open_[0].left if open_ else ""
