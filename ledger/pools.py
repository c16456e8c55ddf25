"""Pools: wallets that allot credit to others. An allotment is a lot of its member's that was taken out of the pool's
wallet, and at its end goes back there instead of expiring.

Guarantee: no credit is made by it: what leaves one wallet is what comes into the other, in one entry, under the locks
of both. A pool allots no more than it has available.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import lots, wallet
from drawdown.ledger.accounts import open_accounts, read_wallets, wallet_account
from drawdown.ledger.allocation import DEFAULT_PRIORITY, Lot, is_same, other_content
from drawdown.ledger.entries import post
from drawdown.ledger.runs.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import as_credits

SQL = queries(__file__)

ALLOTTED_PRIORITY: Final = DEFAULT_PRIORITY - 10
"""What was allotted is used before a member's own credit."""


@dataclass(frozen=True)
class Allotment:
    """A lot of a pool's; `repeated`: it was allotted before, and nothing was moved."""

    lot: Lot
    repeated: bool


def is_pool(connection: sa.Connection, name: str) -> bool:
    """Whether there is a pool of this name."""
    return SQL.run(connection, "one", {"pool": name}).first() is not None


def make(connection: sa.Connection, pool: str, by: By) -> bool:
    """Have a pool, with a wallet of its name; whether it is new."""
    values = {"pool": pool, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    is_new = SQL.run(connection, "make", values).first() is not None
    open_accounts(connection, [wallet_account(pool)])
    return is_new


def allot(
    connection: sa.Connection, pool: str, customer_id: str, amount_micro: int, expires_ms: int, key: str, by: By
) -> Allotment:
    """Move credit out of a pool's wallet into a lot of a customer's, under a key of the pool's own. The same again
    moves nothing.

    Errors: Denied `other_content` for a key that was used for another one, `no_credit`; DatabaseBusy.
    """
    lot = Lot(
        lot=f"allot:{pool}:{key}",
        customer_id=customer_id,
        kind="sponsor",
        amount_micro=amount_micro,
        priority=ALLOTTED_PRIORITY,
        begins_ms=by.now_ms,
        expires_ms=expires_ms,
        features=None,
        at_ms=by.now_ms,
        actor=by.actor,
        reason=by.reason,
        pool=pool,
    )
    open_accounts(connection, [wallet_account(pool), wallet_account(customer_id)])
    wallet.make_true(connection, [pool, customer_id], by.now_ms)  # both are held from here on
    before = lots.read(connection, lot.lot)
    if before is not None:
        if not is_same(before, lot):
            raise Denied("other_content", str(other_content(before)))
        return Allotment(before, repeated=True)
    room = read_wallets(connection, [pool])[pool].available_micro
    if amount_micro > room:
        raise Denied(
            "no_credit",
            f"the pool {pool} has {as_credits(room)} credits left to allot, and this is {as_credits(amount_micro)}: "
            f"allot less, or give it more with `drawdown ledger grant {typed(pool, 'CREDITS')}`",
            "credits",
        )
    lots.give(connection, lot)
    post(connection, [lots.entry_of(lot, by.now_ms)])
    return Allotment(lot, repeated=False)
