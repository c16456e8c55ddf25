"""Entries are posted: each key once, and the wallet on one of its sides moves by it.

The other side is a name: what was earned by a feature, where grants come from. No row keeps its balance: a row that all
customers' charges change makes each of them wait for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger.accounts import WALLET, open_accounts, wallet_account
from drawdown.schema.sql import queries

SQL = queries(__file__)

SOURCE = "source:grants"
TOPUPS = "source:topups"
"""Where credit comes from that was paid for automatically; its key is the payment's."""


MAX_ENTRY_MICRO = 10**15
"""A thousand million credits, as for a grant: balances of many such entries still fit in 64 bits."""


@dataclass(frozen=True)
class Usage:
    """One quantity of a feature used by a customer at `ts` (milliseconds)."""

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int


def content(use: Usage) -> tuple[str, str, int]:
    """What makes two uses under one key the same: account, feature, quantity."""
    return (wallet_account(use.customer_id), use.feature, use.quantity)


def entry_of(use: Usage, amount_micro: int, now_ms: int) -> dict[str, object]:
    """The entry that charges a use, as `post` takes it."""
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
    }


def post(connection: sa.Connection, entries: Sequence[dict[str, object]]) -> set[str]:
    """Insert entries whose keys are new and move the balances; returns the new keys."""
    if not entries:
        return set()
    ordered = sorted(entries, key=lambda entry: str(entry["key"]))  # one order for all workers: no deadlock
    open_accounts(connection, [account for entry in ordered for account, _ in _moved(entry)])
    new = set(SQL.run(connection, "post", {"entries": ordered}).scalars())
    moves: dict[str, int] = defaultdict(int)
    for entry in ordered:
        if entry["key"] in new:
            for account, amount_micro in _moved(entry):
                moves[account] += amount_micro
    _move(connection, moves)
    return new


def _moved(entry: Mapping[str, object]) -> list[tuple[str, int]]:
    """The wallets that an entry moves, and by how much."""
    amount_micro = int(str(entry["amount_micro"]))
    sides = ((str(entry["from_account"]), -amount_micro), (str(entry["to_account"]), amount_micro))
    return [(account, moved) for account, moved in sides if account.startswith(WALLET)]


def _move(connection: sa.Connection, moves: Mapping[str, int]) -> None:
    rows = [{"id": account, "amount": moves[account]} for account in sorted(moves)]
    SQL.run(connection, "move", {"moves": rows})


def read_contents(connection: sa.Connection, keys: Sequence[str]) -> dict[str, tuple[str, str, int]]:
    """What the ledger holds under these keys."""
    if not keys:
        return {}
    rows = SQL.run(connection, "contents", {"keys": [{"key": key} for key in keys]})
    return {row.key: (row.from_account, row.feature, row.quantity) for row in rows}
