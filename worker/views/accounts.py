"""An organisation's account: the wallet that pays for its runs, as a program reads it. Reads only.

Guarantee: a hold that is over counts as free, as it does for whoever reserves.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger import maturing
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.worker.catalog.wallets import wallets_at

SQL = queries(__file__)


@dataclass(frozen=True)
class Account:
    """An organisation's wallet: micro-credits."""

    org_id: str
    customer_id: str
    available_micro: int
    reserved_micro: int
    balance_micro: int
    plan: str | None


def account_of(connection: sa.Connection, org_id: str, now_ms: int) -> Account:
    """What an organisation has. Errors: UnknownId."""
    customer = payer_of(connection, org_id, now_ms)
    found = maturing.look_ahead(connection, customer, now_ms)
    return Account(org_id, customer, found.available_micro, found.held_micro, found.balance_micro, found.plan)


def payer_of(connection: sa.Connection, org_id: str, now_ms: int) -> str:
    """Whose wallet pays for an organisation's runs: its customer's at a biller that keeps wallets here, else its own.
    Errors: UnknownId."""
    row = SQL.run(connection, "biller", {"org_id": org_id, "now_ms": now_ms}).one_or_none()
    if row is None:
        ids.require(connection, ids.CUSTOMER, org_id)
        return org_id
    billed_here = row.customer_id and row.provider in wallets_at(connection)
    return str(row.customer_id) if billed_here else org_id
