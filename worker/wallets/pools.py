"""Pools, what they allot and what became of it, and who pays for whose runs.

Guarantee: the same act again changes nothing, so that a caller who lost the answer gives it again. Organisations whose
verdict may change by one are marked, so that the next tick asks again. The lists read only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from drawdown.ledger import lots, pools
from drawdown.ledger.accounts import Wallet, has_wallet, open_accounts, read_wallets, wallet_account
from drawdown.ledger.allocation import Lot
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.pools import Payer
from drawdown.ledger.reservations import Denied
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.worker.catalog.wallets import billed_elsewhere, orgs_of
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)


@dataclass(frozen=True)
class Allotted:
    """The lot, whether it was allotted before, and the wallets of pool and member afterwards."""

    lot: Lot
    repeated: bool
    pool: Wallet
    member: Wallet


def make(connection: sa.Connection, pool: str, by: By, *, new: bool = True) -> bool:
    """Have a pool with a wallet of its name; whether it is new. Errors: UsageError for a name that is none; Denied
    `taken` for the name of a customer; UnknownId, unless `new`, for a name like that of a pool or customer."""
    if not is_clean_id(pool) or ":" in pool:
        raise UsageError("a pool's name has 1 to 200 characters, none of them a colon or a control character")
    if not pools.is_pool(connection, pool) and ids.is_known(connection, ids.CUSTOMER, pool):
        raise Denied("taken", f"{pool} is a customer, whose wallet has that name: give the pool another one")
    ids.require_meant(connection, pool, new=new, kind=ids.POOL)
    is_new = pools.make(connection, pool, by)
    if is_new:
        record(connection, "pool_make", pool, {}, by)
    return is_new


def allot(
    connection: sa.Connection, pool: str, customer_id: str, amount_micro: int, expires_ms: int, by: By, *, key: str
) -> Allotted:
    """Move credit out of a pool into a lot of a customer's, which pays before all else that it has, and whose rest
    comes back at its end.

    Errors: UnknownId; UsageError for an amount or an end that makes no sense; Denied `pays_itself`, `is_pool`,
    `other_content`, `no_credit`; DatabaseBusy.
    """
    ids.require(connection, ids.POOL, pool)
    if customer_id == pool:
        raise Denied("pays_itself", f"the pool {pool} cannot allot to itself: name the customer who is to use it")
    ids.require(connection, ids.CUSTOMER, customer_id)
    if pools.is_pool(connection, customer_id):
        raise Denied("is_pool", f"{customer_id} is a pool, too: allot to the customer who is to use it")
    if not 0 < amount_micro <= MAX_ENTRY_MICRO:
        raise UsageError("an allotment is more than nothing, and at most a thousand million credits")
    if expires_ms <= by.now_ms:
        raise UsageError("an allotment ends later than now: this would be over already")
    if not is_clean_id(key):
        raise UsageError("an allotment's key has 1 to 200 characters, none of them control characters")
    done = pools.allot(connection, pool, customer_id, amount_micro, expires_ms, key, by)
    if not done.repeated:
        details = {"lot": done.lot.lot, "customer_id": customer_id, "amount_micro": amount_micro}
        record(connection, "pool_allot", pool, {**details, "expires_ms": expires_ms}, by)
        mark_for_projection(connection, orgs_of(connection, [pool, customer_id]), by.now_ms)
    wallets = read_wallets(connection, [pool, customer_id])
    return Allotted(done.lot, done.repeated, wallets[pool], wallets[customer_id])


def allow(
    connection: sa.Connection, payer: str, org_id: str, by: By, *, limit_micro: int | None = None
) -> tuple[Payer, Payer | None]:
    """Let runs of an organisation be paid from another wallet, up to a limit (None: none); what counts now, and before.

    Errors: UnknownId; UsageError for a limit that makes no sense; Denied `pays_itself`, `no_wallet`.
    """
    ids.require(connection, ids.CUSTOMER, payer)
    ids.require(connection, ids.CUSTOMER, org_id)
    if payer == org_id:
        raise Denied(
            "pays_itself", f"{payer} pays for its own runs anyway: name the organisation that it is to pay for"
        )
    if limit_micro is not None and not 0 < limit_micro <= MAX_ENTRY_MICRO:
        raise UsageError("a limit is more than nothing, and at most a thousand million credits")
    if not has_wallet(connection, payer) and billed_elsewhere(connection, payer, by.now_ms):
        # An empty wallet would halt a customer who is billed afterwards.
        text = f"{payer} has no credit here to pay with: `drawdown ledger grant {typed(payer, 'CREDITS')}` first"
        raise Denied("no_wallet", text, "account")
    open_accounts(connection, [wallet_account(payer)])
    found, was = pools.say(connection, payer, org_id, by, allowed=True, limit_micro=limit_micro)
    assert found is not None
    if found != was:
        details = {"org_id": org_id, "limit_micro": limit_micro, "since_ms": found.since_ms}
        record(connection, "payer_allow", payer, details, by)
    return found, was


def end(connection: sa.Connection, payer: str, org_id: str, by: By) -> bool:
    """Let no more runs of an organisation be paid from another wallet; whether any could be. Runs that were accepted
    are paid for all the same. Errors: UnknownId."""
    ids.require(connection, ids.PAYER, payer)
    ids.require(connection, ids.CUSTOMER, org_id)
    found, was = pools.say(connection, payer, org_id, by, allowed=False)
    if found is None or found == was:
        return False
    record(connection, "payer_end", payer, {"org_id": org_id, "since_ms": found.since_ms}, by)
    return True


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
