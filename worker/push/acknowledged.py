"""Differences between balances and pushes that a person was told of, until they are acknowledged (rule P5)."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.sql import queries
from drawdown.worker.push.rows import Row

SQL = queries(__file__)


def told(connection: sa.Connection, org_id: str = "", *, hold: bool = False) -> Sequence[Row]:
    """What a person was told of balances, and has not acknowledged: rows of `balance_marks`, with `hold` kept as they
    are until the transaction ends."""
    return SQL.run(connection, "told", {"org_id": org_id}, held="for_update" if hold else "").all()


def acknowledge(connection: sa.Connection, org_id: str, by: By) -> Sequence[Row]:
    """A person has seen to what was told of an organisation's balances (of all, where it is empty); what that was.

    What a reconciliation tells meanwhile is told after it, and stands."""
    rows = told(connection, org_id, hold=True)
    for row in rows:
        about = {"provider": row.provider, "feature": row.feature}
        SQL.run(connection, "acknowledge", {**about, "customer_id": row.customer_id})
        details = {**about, "customer": row.customer_id, "quantity": int(row.told_qty), "scale": int(row.scale)}
        record(connection, "balance_acknowledge", str(row.org_id), details, by)
    return rows
