"""Tiers, as people look at them: what each allows and costs, and who holds it. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class TierRow:
    """A tier: sandboxes at once, what a month costs in micro-credits, and how many customers hold it."""

    tier: str
    at_once: int
    price_micro: int
    customers: int


@dataclass(frozen=True)
class HeldTier:
    """A tier of a customer: paid for until a moment (milliseconds); whether it goes on then; when it ended and why."""

    tier: str
    at_once: int
    price_micro: int
    paid_to_ms: int
    renews: bool
    ended_ms: int | None
    ended_reason: str | None


def list_tiers(connection: sa.Connection) -> list[TierRow]:
    """All tiers, by how many they allow."""
    return [TierRow(**row) for row in SQL.run(connection, "tiers").mappings()]


def tiers_of(connection: sa.Connection, customer_id: str) -> list[HeldTier]:
    """The tiers of a customer, those that ended last."""
    rows = SQL.run(connection, "of_customer", {"customer_id": customer_id}).mappings()
    return [HeldTier(**{**row, "renews": bool(row["renews"])}) for row in rows]
