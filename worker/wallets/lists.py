"""Wallets, the lowest first, a page at a time; and whose were used most. Reads only.

Guarantee: a page costs the same however many wallets there are: it begins behind the last one of the page before. Who
spent most is what the last look found (`worker.checks.spenders`), with its moment: a look reads all that was charged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

MOST_ON_PAGE: Final = 50
MOST_WALLETS_AT_ONCE: Final = 1_000
"""Of a file, read and held together."""
MOST_SPENDERS: Final = 20
SPENT_DAYS: Final = 30
WHICH: Final = ("", "owed", "low")
"""By what a list may be narrowed; '': all. Low: at or below the threshold of its automatic top-up, or the level at
which balances are low; without either, at nothing."""


@dataclass(frozen=True)
class Chosen:
    """Which wallets; `search` is a part of the customer's id. Empty: any."""

    which: str = ""
    plan: str = ""
    search: str = ""


@dataclass(frozen=True)
class WalletLine:
    """A wallet in the list, in micro-credits; what is due in it by time counts once somebody has looked at it. `mode`
    to `blocked_reason`: of its automatic top-up, None where it has none."""

    customer_id: str
    balance_micro: int
    held_micro: int
    available_micro: int
    plan: str | None
    mode: str | None
    threshold_micro: int | None
    blocked_reason: str | None


@dataclass(frozen=True)
class After:
    """Where a page goes on: behind this customer, at this balance."""

    customer_id: str
    balance_micro: int


@dataclass(frozen=True)
class WalletLines:
    """`after`: where the next page begins; None where there is no more."""

    lines: list[WalletLine]
    after: After | None


@dataclass(frozen=True)
class Spender:
    """What was used of a wallet from `from_ms` to `at_ms`, when it was looked at; its balance and plan now."""

    place: int
    customer_id: str
    used_micro: int
    from_ms: int
    at_ms: int
    balance_micro: int | None
    plan: str | None


def page(
    connection: sa.Connection, chosen: Chosen, after: After | None = None, most: int = MOST_ON_PAGE
) -> WalletLines:
    """Those behind `after`, the lowest balance first. Errors: UsageError for a choice there is not; UnknownId for a
    plan."""
    found = _rows(connection, chosen, after, most + 1)
    shown = found[:most]
    return WalletLines(shown, _end(shown) if len(found) > most else None)


def every(connection: sa.Connection, chosen: Chosen) -> Iterator[WalletLine]:
    """All of them, in that order."""
    after: After | None = None
    while rows := _rows(connection, chosen, after, MOST_WALLETS_AT_ONCE):
        yield from rows
        after = _end(rows)


def spenders_now(connection: sa.Connection, now_ms: int, most: int = MOST_SPENDERS) -> list[Spender]:
    """Whose wallets were used most in the last 30 days, by all that usage and runs were charged in them, less what
    was given back. What tiers cost is no use."""
    from_ms = now_ms - SPENT_DAYS * DAY_MS
    rows = SQL.run(connection, "spenders_now", {"from_ms": from_ms, "to_ms": now_ms, "at_most": most})
    return [Spender(place=place, from_ms=from_ms, at_ms=now_ms, **row._mapping) for place, row in enumerate(rows, 1)]


def spenders_kept(connection: sa.Connection, most: int = MOST_SPENDERS) -> list[Spender]:
    """What the last look found; nothing where nobody has looked."""
    return [Spender(**row._mapping) for row in SQL.run(connection, "spenders_kept", {"at_most": most})]


def _end(rows: list[WalletLine]) -> After:
    return After(rows[-1].customer_id, rows[-1].balance_micro)


def _rows(connection: sa.Connection, chosen: Chosen, after: After | None, most: int) -> list[WalletLine]:
    if chosen.which not in WHICH:
        raise UsageError(f"wallets: there is {', '.join(filter(None, WHICH))}")
    if chosen.plan:
        ids.require(connection, ids.PLAN, chosen.plan)
    part = chosen.search.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    values: dict[str, object] = {"plan": chosen.plan, "search": chosen.search, "like": f"%{part}%", "at_most": most}
    slots = {"behind": "from_the_start", "which": f"is_{chosen.which or 'any'}"}
    if after is not None:
        values |= {"after_micro": after.balance_micro, "after_account": wallet_account(after.customer_id)}
        slots["behind"] = "from_there"
    return [WalletLine(**row._mapping) for row in SQL.run(connection, "page", values, **slots)]
