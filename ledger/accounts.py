"""Accounts: where credit lies, and what plan a wallet is on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.errors import Refused
from drawdown.schema.sql import rows_sql


@dataclass(frozen=True)
class Wallet:
    """A customer's wallet: what is left in micro-credits, the plan, and how many sandboxes at once it allows."""

    balance_micro: int
    plan: str | None
    max_concurrent: int | None


def wallet_account(customer_id: str) -> str:
    """The account of a customer's wallet."""
    return f"wallet:{customer_id}"


def read_wallets(connection: sa.Connection, customer_ids: Iterable[str]) -> Mapping[str, Wallet]:
    """The wallets of customers; one never used before is empty."""
    ids = list(customer_ids)
    rows = connection.execute(
        sa.text(
            f"WITH wanted AS ({rows_sql(connection, {'id': 'text'})}) "
            "SELECT w.id, COALESCE(a.balance_micro, 0), a.plan, p.max_concurrent_sandboxes FROM wanted w "
            "LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || w.id "
            "LEFT JOIN ledger_plans p ON p.plan = a.plan"
        ),
        {"rows": json.dumps([{"id": customer_id} for customer_id in ids])},
    )
    return {row[0]: Wallet(int(row[1]), row[2], row[3]) for row in rows}


def set_plan(connection: sa.Connection, customer_id: str, plan: str) -> None:
    """Put a customer on a plan.

    Errors: Refused for a plan that does not exist.
    """
    known = connection.execute(sa.text("SELECT 1 FROM ledger_plans WHERE plan = :plan"), {"plan": plan}).first()
    if known is None:
        raise Refused(f"there is no plan {plan}: make it with `drawdown ledger plan {plan} --max-concurrent N`")
    open_accounts(connection, [wallet_account(customer_id)])
    connection.execute(
        sa.text("UPDATE ledger_accounts SET plan = :plan WHERE account_id = :account"),
        {"plan": plan, "account": wallet_account(customer_id)},
    )


def open_accounts(connection: sa.Connection, accounts: Iterable[str]) -> None:
    """Have accounts, empty where they are new, in one order: two transactions never wait for each other by it."""
    rows = [{"id": account, "kind": account.split(":", 1)[0]} for account in sorted(set(accounts))]
    connection.execute(
        sa.text(
            "INSERT INTO ledger_accounts (account_id, kind) SELECT id, kind FROM "
            f"({rows_sql(connection, {'id': 'text', 'kind': 'text'})}) r WHERE 1 = 1 "
            "ORDER BY id ON CONFLICT (account_id) DO NOTHING"
        ),
        {"rows": json.dumps(rows)},
    )
