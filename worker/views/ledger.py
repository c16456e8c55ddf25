"""Wallets, their entries and the rate card, as people look at them. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.rates import Rate
from drawdown.ledger.wallet import read_rate_card
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class WalletRow:
    """One wallet; `account_id` is `wallet:` and the customer's id."""

    account_id: str
    balance_micro: int
    plan: str | None


@dataclass(frozen=True)
class EntryRow:
    """One entry of a wallet. Of usage the amount was taken, of a grant it was given; `moved_micro` says by how much it
    moved the wallet, up or down."""

    key: str
    kind: str
    amount_micro: int
    moved_micro: int
    feature: str | None
    quantity: int | None
    ts: int
    actor: str
    reason: str


def list_wallets(connection: sa.Connection, most: int) -> list[WalletRow]:
    """The lowest first."""
    return [WalletRow(**row._mapping) for row in SQL.run(connection, "wallets", {"at_most": most})]


def list_rates(connection: sa.Connection) -> list[Rate]:
    """The rate card, by feature and beginning."""
    return read_rate_card(connection).rates


def list_entries(connection: sa.Connection, customer_id: str, most: int, after: str = "") -> list[EntryRow]:
    """A customer's entries, the latest first; with `after`, those that follow the entry of that key. Errors: UsageError
    where there is none of that key."""
    values = {"account_id": wallet_account(customer_id), "at_most": most, "after": after}
    if after and SQL.run(connection, "is_entry", values).first() is None:
        raise UsageError("after: there is no such entry of this wallet")
    return [EntryRow(**row._mapping) for row in SQL.run(connection, "entries", values)]
