"""Post entries, each key once, and move the balances of their wallets.

The other side of an entry is a name, such as a feature's revenue or the source of grants. Drawdown does not store a
balance for that side, because all customers' charges would then change one row, and wait for each other.
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
from drawdown.schema.units import EVER_MS, MICRO, as_credits

SQL = queries(__file__)

SOURCE = "source:grants"

MAX_ENTRY_MICRO = 10**15
"""Largest amount of an entry, such as a grant, in micro-credits.

It is 1,000,000,000 credits. Balances of many such entries fit in 64 bits.
"""
MOST_BALANCE_MICRO: Final = 10**18
"""Largest balance or debt of a wallet, in micro-credits.

It is a thousand times the largest entry. Drawdown can still read it, sum it, and add another entry.
"""
BOUNDED: Final = frozenset({"usage", "execution"})
"""The kinds of entries that come from outside, in any number."""


class BeyondBalance(Refused):
    """Raised if a charge would move a wallet beyond the largest balance or debt.

    The charge is for usage or an execution. The entries of the call are already written, so roll back the transaction,
    or the savepoint around the call.
    """

    code = "beyond_balance"


@dataclass(frozen=True)
class Usage:
    """A quantity of a feature that a customer used, in base units.

    The quantity counts at `ts` (milliseconds), the start of its window (S11).
    """

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int


def content(use: Usage) -> tuple[str, str, int]:
    """Return the content that two uses of one key share: account, feature, quantity."""
    return (wallet_account(use.customer_id), use.feature, use.quantity)


def entry_of(use: Usage, amount_micro: int, rate_ms: int, now_ms: int) -> dict[str, object]:
    """Return the entry that charges a use, for `post`.

    `rate_ms`: the start of the rate.
    """
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

    Errors: BeyondBalance if entries of a kind in BOUNDED would move a wallet beyond the largest balance or debt.
    """
    if not entries:
        return set()
    ordered = sorted(entries, key=lambda entry: str(entry["key"]))  # the same order in all workers prevents deadlocks
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
                f"cannot change the balance of {account} to {as_credits(balance_micro)} credits: at "
                f"most {MOST_BALANCE_MICRO // MICRO:,} are allowed, as credit or debt. "
                "Check the usage and its rate"
            )
    return new


def moves(entry: Mapping[str, object]) -> list[tuple[str, int]]:
    """Return the wallets that an entry moves, each with the amount in micro-credits."""
    amount_micro = int(str(entry["amount_micro"]))
    sides = ((str(entry["from_account"]), -amount_micro), (str(entry["to_account"]), amount_micro))
    return [(account, moved) for account, moved in sides if account.startswith(WALLET)]


def _move(connection: sa.Connection, moved: Mapping[str, int], dated: Mapping[str, int]) -> dict[str, int]:
    """Move balances, and return the new ones in micro-credits.

    `dated`: the earliest moment of the entries of each account.
    """
    rows = [{"id": account, "amount": moved[account], "first_ms": dated[account]} for account in sorted(moved)]
    return {row.account_id: int(row.balance_micro) for row in SQL.run(connection, "move", {"moves": rows})}


def read_contents(connection: sa.Connection, keys: Sequence[str]) -> dict[str, tuple[str, str, int]]:
    """Return the content of the ledger's entries with these keys, by key."""
    if not keys:
        return {}
    rows = SQL.run(connection, "contents", {"keys": [{"key": key} for key in keys]})
    return {row.key: (row.from_account, row.feature, row.quantity) for row in rows}
