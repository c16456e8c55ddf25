"""A wallet's entries, the latest first, a page at a time: each with what it is an entry of. Reads only.

Guarantee: a page costs the same however many entries there are: it begins behind the last one of the page before. The
entries of all pages add up to the balance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_ENTRIES_ON_PAGE: Final = 50


@dataclass(frozen=True)
class EntryLine:
    """An entry, by how many micro-credits it moved the wallet, up or down; for which time (`ts`), and when it was
    booked. Of usage, `key` is its push's; of a run, `reservation` names it; `lot`: of which it expires or is taken."""

    key: str
    kind: str
    feature: str | None
    quantity: int | None
    ts: int
    at_ms: int
    actor: str
    reason: str
    reservation: str | None
    lot: str | None
    moved_micro: int


@dataclass(frozen=True)
class Entries:
    """`after`: the key behind which the next page begins; None where there is no more. `booked_micro`: what the wallet
    holds behind the first of them; None where they do not begin with the latest."""

    entries: list[EntryLine]
    after: str | None
    booked_micro: int | None


def page(
    connection: sa.Connection,
    customer_id: str,
    after: str = "",
    most: int = MOST_ENTRIES_ON_PAGE,
    *,
    until_ms: int | None = None,
) -> Entries:
    """Those behind the entry of that key, or those that count for no later than that moment.

    Errors: UsageError where the wallet has none of that key."""
    values: dict[str, object] = {"account_id": wallet_account(customer_id), "at_most": most + 1, "after_key": after}
    if after:
        moment = SQL.run(connection, "moment", values).scalar()
        if moment is None:
            raise UsageError("after: there is no such entry of this wallet")
        values["after_ms"] = int(moment)
    elif until_ms is not None:
        values["after_ms"] = until_ms + 1  # behind an entry of the next moment, whatever its key
    from_start = not after and until_ms is None
    rows = SQL.run(connection, "page", values, behind="from_the_start" if from_start else "from_there")
    found = [EntryLine(**row._mapping) for row in rows]
    booked = SQL.run(connection, "booked", values).scalar() if from_start else None
    return Entries(found[:most], found[most - 1].key if len(found) > most else None, booked)
