"""Entries are posted: each key once, and the wallet on one of its sides moves by it.

The other side is a name: a feature's revenue, or the source of grants. Its balance is in no row: if all customers'
charges changed one row, each of them would wait for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import WALLET, open_accounts, wallet_account
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import EVER_MS, MICRO, in_credits

SQL = queries(__file__)

SOURCE = "source:grants"

MAX_ENTRY_MICRO = 10**15
"""1,000,000,000 credits, as for a grant: balances of many such entries still fit in 64 bits."""
MOST_BALANCE_MICRO: Final = 10**18
"""Balance or debt of a wallet: a thousand of the largest entries. It can always be read, summed up and moved once
more."""
BOUNDED: Final = frozenset({"usage", "execution"})
"""The kinds of entries that come from outside, in any number."""


class BeyondBalance(Refused):
    """A wallet would have or owe more than any wallet can; nothing was posted."""

    code = "beyond_balance"


@dataclass(frozen=True)
class Usage:
    """One quantity of a feature used by a customer; it counts at `ts` (milliseconds), the start of its window (S11)."""

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int


def content(use: Usage) -> tuple[str, str, int]:
    """Return the content that two uses under one key must share: account, feature, quantity."""
    return (wallet_account(use.customer_id), use.feature, use.quantity)


def entry_of(use: Usage, amount_micro: int, rate_ms: int, now_ms: int) -> dict[str, object]:
    """The entry that charges a use by the rate that holds from `rate_ms` on, as `post` takes it."""
    return {
        "key": use.key,
        "kind": "usage",
        "from_account": wallet_account(use.customer_id),
        "to_account": f"revenue:{use.feature}",
        "amount_micro": amount_micro,
        "feature": use.feature,
        "quantity": use.quantity,
        "ts": use.ts,
        "at_ms": now_ms,
        "actor": "drawdown",
        "reason": "usage",
        "rate_ms": rate_ms,
    }


def post(connection: sa.Connection, entries: Sequence[dict[str, object]]) -> set[str]:
    """Insert entries with new keys, move the balances, and return the new keys.

    Errors: BeyondBalance if an amount from outside would move a wallet beyond the largest balance.
    """
    if not entries:
        return set()
    ordered = sorted(entries, key=lambda entry: str(entry["key"]))  # one order for all workers: no deadlock
    open_accounts(connection, [account for entry in ordered for account, _ in moves(entry)])
    new = set(SQL.run(connection, "post", {"entries": ordered}).scalars())
    moved: dict[str, int] = defaultdict(int)
    dated: dict[str, int] = {}
    bounded: set[str] = set()
    for entry in ordered:
        if entry["key"] in new:
            bounded |= {account for account, _ in moves(entry) if entry["kind"] in BOUNDED}
            for account, amount_micro in moves(entry):
                moved[account] += amount_micro
                dated[account] = min(dated.get(account, EVER_MS), int(str(entry["ts"])))
    for account, balance_micro in _move(connection, moved, dated).items():
        if account in bounded and abs(balance_micro) > MOST_BALANCE_MICRO:
            raise BeyondBalance(
                f"balance of {account} would be {in_credits(balance_micro)} credits: at "
                f"most {MOST_BALANCE_MICRO // MICRO:,} are allowed, as credit or debt. "
                "Check the usage and its rate"
            )
    return new


def moves(entry: Mapping[str, object]) -> list[tuple[str, int]]:
    """The wallets that an entry moves, and by how much."""
    amount_micro = int(str(entry["amount_micro"]))
    sides = ((str(entry["from_account"]), -amount_micro), (str(entry["to_account"]), amount_micro))
    return [(account, moved) for account, moved in sides if account.startswith(WALLET)]


def _move(connection: sa.Connection, moved: Mapping[str, int], dated: Mapping[str, int]) -> dict[str, int]:
    """Move balances; what they are now. `dated`: the earliest moment of what moves them."""
    rows = [{"id": account, "amount": moved[account], "first_ms": dated[account]} for account in sorted(moved)]
    return {row.account_id: int(row.balance_micro) for row in SQL.run(connection, "move", {"moves": rows})}


def read_contents(connection: sa.Connection, keys: Sequence[str]) -> dict[str, tuple[str, str, int]]:
    """Return the ledger's content under these keys."""
    if not keys:
        return {}
    rows = SQL.run(connection, "contents", {"keys": [{"key": key} for key in keys]})
    return {row.key: (row.from_account, row.feature, row.quantity) for row in rows}
