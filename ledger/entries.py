"""Entries are posted: each key once, and both its accounts move by it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger.accounts import open_accounts, wallet_account
from drawdown.schema.sql import rows_sql

SOURCE = "source:grants"


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


_ENTRY_COLUMNS = {
    "key": "text",
    "kind": "text",
    "from_account": "text",
    "to_account": "text",
    "amount_micro": "bigint",
    "feature": "text",
    "quantity": "bigint",
    "ts": "bigint",
    "at_ms": "bigint",
    "actor": "text",
    "reason": "text",
}


def post(connection: sa.Connection, entries: Sequence[dict[str, object]]) -> set[str]:
    """Insert entries whose keys are new and move the balances; returns the new keys."""
    if not entries:
        return set()
    ordered = sorted(entries, key=lambda entry: str(entry["key"]))  # one order for all workers: no deadlock
    open_accounts(connection, [str(entry[side]) for entry in ordered for side in ("from_account", "to_account")])
    names = ", ".join(_ENTRY_COLUMNS)
    new = set(
        connection.execute(
            sa.text(
                f"INSERT INTO ledger_entries ({names}) SELECT {names} FROM ({rows_sql(connection, _ENTRY_COLUMNS)}) r "
                "WHERE 1 = 1 ON CONFLICT (key) DO NOTHING RETURNING key"
            ),
            {"rows": json.dumps(ordered)},
        ).scalars()
    )
    moves: dict[str, int] = defaultdict(int)
    for entry in ordered:
        if entry["key"] in new:
            moves[str(entry["from_account"])] -= int(str(entry["amount_micro"]))
            moves[str(entry["to_account"])] += int(str(entry["amount_micro"]))
    _move(connection, moves)
    return new


def _move(connection: sa.Connection, moves: Mapping[str, int]) -> None:
    rows = [{"id": account, "amount": moves[account]} for account in sorted(moves)]
    connection.execute(
        sa.text(
            "UPDATE ledger_accounts SET balance_micro = balance_micro + r.amount FROM "
            f"({rows_sql(connection, {'id': 'text', 'amount': 'bigint'})}) r WHERE account_id = r.id"
        ),
        {"rows": json.dumps(rows)},
    )


def read_contents(connection: sa.Connection, keys: Sequence[str]) -> dict[str, tuple[str, str, int]]:
    """What the ledger holds under these keys."""
    if not keys:
        return {}
    rows = connection.execute(
        sa.text(
            f"WITH wanted AS ({rows_sql(connection, {'key': 'text'})}) SELECT e.key, e.from_account, e.feature, "
            "e.quantity FROM ledger_entries e JOIN wanted w ON w.key = e.key"
        ),
        {"rows": json.dumps([{"key": key} for key in keys])},
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows}
