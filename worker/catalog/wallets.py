"""The customers that have a wallet in the embedded ledger: the ledger's own, and those of providers without a hard
stop.

Guarantee: every caller gets one answer: which customers draw on a wallet, go by its rate card, and are read again once
it moved.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.sql import queries

SQL = queries(__file__)


def wallets_at(connection: sa.Connection) -> Collection[str]:
    """The providers whose customers' balances lie in the ledger, by the terms in force."""
    stored = SQL.run(connection, "terms_in_force")
    return {EMBEDDED, *(row.provider for row in stored if json.loads(row.terms).get("balance_in_ledger"))}


def mirrored_at(connection: sa.Connection) -> Collection[str]:
    """Of these, the providers that charge elsewhere: what they accept is drawn from the wallet as well."""
    return set(wallets_at(connection)) - {EMBEDDED}


def one_wallet_at(connection: sa.Connection, provider: str, in_ledger: Collection[str] = ()) -> list[str]:
    """The providers at which a customer of this one, by the same id, has the same wallet: itself at least. `in_ledger`:
    those that declare it and were not met yet, beside those whose terms are in force."""
    theirs = {*wallets_at(connection), *in_ledger}
    return sorted(theirs) if provider in theirs else [provider]


def orgs_of(connection: sa.Connection, customer_ids: Sequence[str]) -> list[str]:
    """The organisations whose verdict may change when these customers' wallets do."""
    theirs = wallets_at(connection)
    rows = SQL.run(connection, "orgs_of_customers", {"customers": [{"id": customer} for customer in customer_ids]})
    return sorted({str(row.org_id) for row in rows if row.provider in theirs})


def customers_on(connection: sa.Connection, plan: str) -> list[str]:
    """The customers whose wallet is on a plan."""
    accounts = SQL.run(connection, "wallets_on_plan", {"plan": plan}).scalars()
    return [str(account).removeprefix("wallet:") for account in accounts]
