"""Pools, what became of what they allotted, and who pays for whose runs. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from drawdown.ledger import lots
from drawdown.ledger.accounts import Wallet, read_wallets
from drawdown.schema import ids
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class PoolRow:
    """A pool, in micro-credits: what is available, what it ever allotted less what was taken back, and what of that
    came back at an end; how many have an allotment that goes on."""

    pool: str
    available_micro: int
    allotted_micro: int
    returned_micro: int
    members: int


@dataclass(frozen=True)
class AllotmentRow:
    """An allotment, in micro-credits: `amount = left + waits + used + returned + taken`. `waits` is what is over and
    has not come back yet; `used` is all that its member's wallet drew of it, `taken` what the pool took back."""

    lot: str
    customer_id: str
    state: Literal["in use", "taken back", "over"]
    amount_micro: int
    left_micro: int
    waits_micro: int
    used_micro: int
    returned_micro: int
    taken_micro: int
    begins_ms: int
    expires_ms: int
    actor: str
    reason: str


@dataclass(frozen=True)
class PoolView:
    """A pool's wallet and its allotments, those that end last first; whether there are more."""

    pool: str
    wallet: Wallet
    allotments: list[AllotmentRow]
    more: bool


@dataclass(frozen=True)
class PayerRow:
    """Who pays for runs of which organisation, up to which limit, since when (milliseconds); what runs that were
    accepted since hold and cost."""

    payer: str
    org_id: str
    allowed: bool
    limit_micro: int | None
    spent_micro: int
    since_ms: int
    actor: str
    reason: str


def list_pools(connection: sa.Connection, now_ms: int, most: int) -> list[PoolRow]:
    """By their names."""
    return [PoolRow(**row) for row in SQL.run(connection, "pools", {"now_ms": now_ms, "at_most": most}).mappings()]


def show_pool(connection: sa.Connection, pool: str, now_ms: int, most: int) -> PoolView:
    """A pool and what became of what it allotted. Errors: UnknownId."""
    ids.require(connection, ids.POOL, pool)
    rows = SQL.run(connection, "allotments", {"pool": pool, "at_most": most + 1}).all()
    chosen = [row.lot for row in rows[:most]]
    theirs = lots.read_all(connection, sorted({row.customer_id for row in rows[:most]}))
    allocations = lots.allocations(connection, theirs, now_ms)
    found = {}
    for customer_id, those in theirs.items():
        for lot in those:
            assert lot.pool is None or lot.expires_ms is not None
            over, left = lot.is_over(now_ms), lots.left(lot, allocations[customer_id])
            found[lot.lot] = AllotmentRow(
                lot=lot.lot,
                customer_id=customer_id,
                state="over" if over else "taken back" if lot.taken_micro and not left else "in use",
                amount_micro=lot.amount_micro,
                left_micro=0 if over else left,
                waits_micro=left if over else 0,
                used_micro=allocations[customer_id].used[lot.lot],
                returned_micro=lot.expired_micro,
                taken_micro=lot.taken_micro,
                begins_ms=lot.begins_ms,
                expires_ms=lot.expires_ms or 0,
                actor=lot.actor,
                reason=lot.reason,
            )
    wallet = read_wallets(connection, [pool])[pool]
    return PoolView(pool, wallet, [found[lot] for lot in chosen], len(rows) > most)


def list_payers(connection: sa.Connection, payer: str, org_id: str, now_ms: int, most: int) -> list[PayerRow]:
    """What counts now, of a payer or an organisation alone where they are given. Errors: UnknownId."""
    if payer:
        ids.require(connection, ids.PAYER, payer)
    if org_id:
        ids.require(connection, ids.CUSTOMER, org_id)
    values = {"payer": payer, "org_id": org_id, "now_ms": now_ms, "at_most": most}
    rows = SQL.run(connection, "payers", values).mappings()
    return [PayerRow(**{**row, "allowed": bool(row["allowed"])}) for row in rows]
