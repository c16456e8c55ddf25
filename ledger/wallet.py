"""The embedded prepaid wallet, in the same database.

Guarantee: double-entry (each entry moves one amount between two accounts, so its lines sum to zero). A usage key is
charged once for good. Usage is never refused: used quantities are owed, and a balance may go below zero. A batch of any
size is a few statements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import sqlalchemy as sa

from drawdown.ledger.accounts import read_wallets, wallet_account
from drawdown.ledger.entries import MAX_ENTRY_MICRO, SOURCE, Usage, content, entry_of, post, read_contents
from drawdown.ledger.rates import Rate, RateCard
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries

SQL = queries(__file__)


class Charge(Enum):
    """What became of one usage."""

    CHARGED = "charged"
    ALREADY = "already"
    OTHER_CONTENT = "other_content"
    NO_RATE = "no_rate"
    TOO_LARGE = "too_large"


@dataclass(frozen=True)
class Granted:
    """The balance after a grant, in micro-credits; `repeated`: the same was given before, and nothing was added."""

    balance_micro: int
    repeated: bool


def charge(connection: sa.Connection, batch: Sequence[Usage], now_ms: int) -> list[Charge]:
    """Charge usages, each key once for good; one answer each, in order."""
    card = read_rate_card(connection)
    entries: dict[str, dict[str, object]] = {}
    too_large: set[str] = set()
    for use in batch:
        amount = card.price(use.feature, use.ts, use.quantity)
        if amount is not None and use.key not in entries:  # of a key that comes twice, the first counts
            if abs(amount) > MAX_ENTRY_MICRO:
                too_large.add(use.key)
            else:
                entries[use.key] = entry_of(use, amount, now_ms)
    new = post(connection, list(entries.values()))
    repeated = _repeated(batch, new)
    stored = read_contents(connection, repeated)
    answers = []
    for use in batch:
        if use.key in new and stored.get(use.key, content(use)) == content(use):
            new.discard(use.key)
            answers.append(Charge.CHARGED)
        elif use.key in stored:
            answers.append(Charge.ALREADY if stored[use.key] == content(use) else Charge.OTHER_CONTENT)
        else:
            answers.append(Charge.TOO_LARGE if use.key in too_large else Charge.NO_RATE)
    return answers


def reverse(connection: sa.Connection, keys: Sequence[str], now_ms: int) -> set[str]:
    """Give back what was charged under these keys: the amount of then, whatever the rate card says by now, each key
    once for good. Returns those of the keys that were charged."""
    rows = SQL.run(connection, "charges", {"keys": [{"key": key} for key in keys]}).mappings().all()
    back = [
        {
            **row,
            "key": f"{row['key']}:back",
            "kind": "usage",
            "amount_micro": -int(row["amount_micro"]),
            "quantity": -int(row["quantity"]),
            "at_ms": now_ms,
            "actor": "drawdown",
            "reason": "given back",
        }
        for row in rows
    ]
    post(connection, back)
    return {str(row["key"]) for row in rows}


def _repeated(batch: Sequence[Usage], new: set[str]) -> list[str]:
    """Keys that were charged before, or come a second time in this batch."""
    count = Counter(use.key for use in batch)
    return [key for key, times in count.items() if times > 1 or key not in new]


def grant(
    connection: sa.Connection,
    customer_id: str,
    amount_micro: int,
    *,
    key: str,
    now_ms: int,
    actor: str,
    reason: str,
    source: str = SOURCE,
) -> Granted:
    """Give credit (a negative amount takes it back).

    Errors: Refused where this key was used before with another amount or customer. The same grant again is no error
    and changes nothing.
    """
    row = {
        "key": key,
        "kind": "grant",
        "from_account": source,
        "to_account": wallet_account(customer_id),
        "amount_micro": amount_micro,
        "feature": None,
        "quantity": None,
        "ts": now_ms,
        "at_ms": now_ms,
        "actor": actor,
        "reason": reason,
    }
    repeated = not post(connection, [row])
    if repeated:
        before = SQL.run(connection, "grant", {"key": key}).one()
        if (before.to_account, before.amount_micro) != (row["to_account"], amount_micro):
            amount = f"{before.amount_micro} micro-credits"
            raise Refused(f"the grant key {key} was used before, for {amount} to {before.to_account}")
    return Granted(read_wallets(connection, [customer_id])[customer_id].balance_micro, repeated)


def read_totals(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int) -> dict[str, int]:
    """Charged quantity by feature, of usage dated in [from_ms, to_ms)."""
    values = {"from_account": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms}
    return {row.feature: int(row.quantity) for row in SQL.run(connection, "totals", values)}


def read_charge(connection: sa.Connection, key: str) -> int | None:
    """The quantity charged under a key; None where it was never charged."""
    return read_charges(connection, [key]).get(key)


def read_charges(connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
    """The quantities charged under those of these keys that were charged."""
    rows = SQL.run(connection, "charges", {"keys": [{"key": key} for key in keys]})
    return {row.key: int(row.quantity) for row in rows}


def read_rate_card(connection: sa.Connection) -> RateCard:
    """The whole rate card."""
    rows = SQL.run(connection, "rates")
    return RateCard(Rate(row.feature, row.start_ms, row.micro_credits, row.per_quantity) for row in rows)
