"""What the demo shows of its small fleet. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

_FLEET = """
SELECT o.org_id, a.plan,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.org_id = o.org_id AND s.state = 'running') AS running,
    COALESCE((SELECT SUM(quantity) FROM ledger_entries e WHERE e.from_account = a.account_id), 0) AS billed_s,
    a.balance_micro, o.is_halted, o.halted_at
FROM orgs o JOIN ledger_accounts a ON a.account_id = 'wallet:' || o.org_id ORDER BY 1
"""


@dataclass(frozen=True)
class FleetRow:
    """An organisation of the demo."""

    org_id: str
    plan: str | None
    running: int
    billed_s: int
    balance_micro: int
    is_halted: bool
    halted_at: int | None


@dataclass(frozen=True)
class RevisedPush:
    """The difference of a window that was sealed before."""

    key: str
    sealed_qty: int
    state: str


@dataclass(frozen=True)
class Totals:
    """Seconds used, by the samples, and seconds billed, by the ledger."""

    used_s: int
    billed_s: int


def fleet(connection: sa.Connection) -> list[FleetRow]:
    """By name."""
    return [
        FleetRow(
            row.org_id, row.plan, row.running, int(row.billed_s), row.balance_micro, bool(row.is_halted), row.halted_at
        )
        for row in connection.execute(sa.text(_FLEET))
    ]


def revised_pushes(connection: sa.Connection) -> list[RevisedPush]:
    """Pushes of windows that had been sealed before."""
    query = "SELECT key, sealed_qty, state FROM pushes WHERE revision > 0"
    return [RevisedPush(*row) for row in connection.execute(sa.text(query))]


def totals(connection: sa.Connection) -> Totals:
    """Both sides, each from its own table."""
    used = connection.execute(sa.text("SELECT SUM(interval_s) FROM usage_samples")).scalar_one()
    billed = connection.execute(sa.text("SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'")).scalar_one()
    return Totals(int(used), int(billed))
