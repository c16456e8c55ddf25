"""Pools, what they allot, and who pays for whose runs.

Guarantee: the same act again changes nothing, so that whoever lost the answer gives it again. Organisations whose
verdict may change by one are marked, so that the next tick asks again.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger import payers, pools
from drawdown.ledger.accounts import Wallet, has_wallet, open_accounts, read_wallets, wallet_account
from drawdown.ledger.allocation import Lot
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.payers import Payer
from drawdown.ledger.runs.reservations import Denied
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import typed
from drawdown.worker.catalog.wallets import billed_elsewhere, orgs_of
from drawdown.worker.verdict.asks import mark_for_projection


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
    found, was = payers.say(connection, payer, org_id, by, allowed=True, limit_micro=limit_micro)
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
    found, was = payers.say(connection, payer, org_id, by, allowed=False)
    if found is None or found == was:
        return False
    record(connection, "payer_end", payer, {"org_id": org_id, "since_ms": found.since_ms}, by)
    return True
