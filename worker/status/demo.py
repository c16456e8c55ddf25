"""Read the state of the demo's fleet. This module only reads."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class FleetRow:
    """An organisation of the demo. `running`: the number of its running sandboxes.

    `halted_at`: the start of its halt, in milliseconds (None: it is not halted).
    """

    org_id: str
    plan: str | None
    running: int
    billed_s: int
    balance_micro: int
    is_halted: bool
    halted_at: int | None


@dataclass(frozen=True)
class RevisedPush:
    """A push with the difference (`sealed_qty`) to an earlier seal of its window."""

    key: str
    sealed_qty: int
    state: str


@dataclass(frozen=True)
class DemoTotals:
    """The seconds used according to samples, and billed according to the ledger."""

    used_s: int
    billed_s: int


def fleet(connection: sa.Connection) -> list[FleetRow]:
    """Return the organisations of the demo, by name."""
    return [
        FleetRow(
            row.org_id, row.plan, row.running, int(row.billed_s), row.balance_micro, bool(row.is_halted), row.halted_at
        )
        for row in SQL.run(connection, "fleet")
    ]


def revised_pushes(connection: sa.Connection) -> list[RevisedPush]:
    """Return the pushes of later seals of a window: those with a revision above 0."""
    return [RevisedPush(**row._mapping) for row in SQL.run(connection, "revised_pushes")]


def totals(connection: sa.Connection) -> DemoTotals:
    """Return the seconds used and billed, each from its own table."""
    used = SQL.run(connection, "used").scalar_one()
    billed = SQL.run(connection, "billed").scalar_one()
    return DemoTotals(int(used), int(billed))
