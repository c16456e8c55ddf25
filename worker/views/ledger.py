"""Wallets, their entries and the rate card, as people look at them. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger.rates import Rate
from drawdown.ledger.wallet import read_rate_card
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
    """One entry of a wallet. Of usage the amount was taken, of a grant it was given."""

    key: str
    kind: str
    amount_micro: int
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


def list_entries(connection: sa.Connection, customer_id: str, most: int) -> list[EntryRow]:
    """A customer's entries, the latest first."""
    values = {"account_id": f"wallet:{customer_id}", "at_most": most}
    return [EntryRow(**row._mapping) for row in SQL.run(connection, "entries", values)]
