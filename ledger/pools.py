"""Pools and payers.

A pool is a wallet that allots credit to others. A payer is a wallet that pays for executions of other organisations.

Guarantee: an allotment moves credit, and never creates it. It is a lot of its member. When the lot ends, its unused
credit returns to the pool's wallet instead of expiring. One entry, under the locks of both wallets, moves the credit. A
pool allots at most its available credit.

The list of payers is append-only, and the last row of a payer and an organisation counts. A payer is checked under the
lock of its wallet. If a payer ends its agreement or lowers its limit, the change applies to every execution that is
accepted later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import lots, wallet
from drawdown.ledger.accounts import open_accounts, read_wallets, wallet_account
from drawdown.ledger.allocation import DEFAULT_PRIORITY, Lot, is_same, other_content
from drawdown.ledger.entries import post
from drawdown.ledger.reservations import Denied, Reservation
from drawdown.schema.audit import By
from drawdown.schema.clock import utc
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import as_credits, counted_credits

SQL = queries(__file__)

ALLOTTED_PRIORITY: Final = DEFAULT_PRIORITY - 10
"""The priority of allotted credit, which is used before lots of default priority."""


@dataclass(frozen=True)
class Allotment:
    """A lot that a pool allotted.

    `repeated`: True if it was allotted before, so this call did not move credit.
    """

    lot: Lot
    repeated: bool


def is_pool(connection: sa.Connection, name: str) -> bool:
    """Return True if a pool has this name."""
    return SQL.run(connection, "one", {"pool": name}).first() is not None


def make(connection: sa.Connection, pool: str, by: By) -> bool:
    """Make a pool with a wallet of its name. Return True if it is new.

    Errors: Denied `taken` if the wallet exists without the pool.
    """
    values = {"pool": pool, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    if SQL.run(connection, "make", values).first() is None:
        return False
    if SQL.run(connection, "open_wallet", {"account_id": wallet_account(pool)}).first() is None:
        raise name_taken(pool)
    return True


def name_taken(name: str) -> Denied:
    """Return the refusal of a pool with the name of a customer."""
    return Denied("taken", f"a customer's wallet has the name {name}. Choose another name")


def allot(
    connection: sa.Connection, pool: str, customer_id: str, amount_micro: int, expires_ms: int, key: str, by: By
) -> Allotment:
    """Move credit of a pool into a lot of a customer, under a key of the pool.

    A repetition does not move credit. Errors: Denied `other_content` for a key with different content, `no_credit`;
    DatabaseBusy.
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
    wallet.make_true(connection, [pool, customer_id], by.now_ms)  # this call locks both wallets
    before = lots.read(connection, lot.lot)
    if before is not None:
        if not is_same(before, lot):
            raise Denied("other_content", str(other_content(before)))
        return Allotment(before, repeated=True)
    room = read_wallets(connection, [pool])[pool].available_micro
    if amount_micro > room:
        raise Denied(
            "no_credit",
            f"pool {pool} has {counted_credits(room)} left, fewer than "
            f"{as_credits(amount_micro)}. Allot less, or run `drawdown ledger grant "
            f"{typed(pool, 'AMOUNT')}`",
            "credits",
        )
    lots.give(connection, lot)
    post(connection, [lots.entry_of(lot, by.now_ms)])
    return Allotment(lot, repeated=False)


MOST_PAYERS: Final = 500
"""Payers of one organisation in a list, or in a search for the nearest name."""


@dataclass(frozen=True)
class Payer:
    """The last decision on a payer and an organisation.

    `number`: the number of the decision on this pair, from 1. `allowed`: from `since_ms` (milliseconds) on, the payer's
    wallet can pay for the organisation's executions. `limit_micro`: the most that executions accepted under this
    decision can reserve and cost in total; None: unlimited.
    """

    payer: str
    org_id: str
    number: int
    allowed: bool
    limit_micro: int | None
    since_ms: int
    at_ms: int
    actor: str
    reason: str


def read(connection: sa.Connection, payer: str, org_id: str) -> Payer | None:
    """Return the current decision; None if the pair never had a decision."""
    row = SQL.run(connection, "newest", {"payer": payer, "org_id": org_id}).mappings().one_or_none()
    return None if row is None else Payer(**{**row, "allowed": bool(row["allowed"])})


def of_org(connection: sa.Connection, org_id: str) -> list[str]:
    """Return the payers that were ever allowed to pay for an organisation.

    The result has at most MOST_PAYERS payers, in the order of their names. It includes payers that can pay now.
    """
    return list(SQL.run(connection, "of_org", {"org_id": org_id, "at_most": MOST_PAYERS}).scalars())


def say(
    connection: sa.Connection, payer: str, org_id: str, by: By, *, allowed: bool, limit_micro: int | None = None
) -> tuple[Payer | None, Payer | None]:
    """Decide if a payer pays for executions of an organisation from now on.

    Return the decisions now and before (None: without a decision).

    `limit_micro`: the limit in micro-credits; None: unlimited. A repetition does not change the decision. After a
    new decision, the payer still pays for executions that were accepted before, within the former limit. Those
    executions cannot reserve more credit.
    """
    SQL.run(connection, "hold_wallet", {"account_id": wallet_account(payer)}).all()
    was = read(connection, payer, org_id)
    if (was is None and not allowed) or (was is not None and (was.allowed, was.limit_micro) == (allowed, limit_micro)):
        return was, was
    said = {"payer": payer, "org_id": org_id, "allowed": allowed, "limit_micro": limit_micro}
    SQL.run(connection, "say", {**said, **vars(by)})
    return read(connection, payer, org_id), was


def require(connection: sa.Connection, payer: str, org_id: str, now_ms: int, *, begun: bool = False) -> Payer:
    """Return the decision by which a payer pays now.

    `begun`: the execution has begun. Errors: Denied `payer_not_allowed`, at step `account`.
    """
    found = read(connection, payer, org_id)
    if found is not None and found.allowed and found.since_ms > now_ms:
        since, here = utc(found.since_ms), utc(now_ms)
        text = f"{payer} pays for executions of {org_id} from {since}, and the time is {here}. Try again at that time"
        raise Denied("payer_not_allowed", text, "account")
    if found is None or not found.allowed:
        ended = "" if found is None or found.allowed else " any more"
        then = f"Run `drawdown payer allow {typed(payer, org_id, '--limit', 'CREDITS')}`, or omit the payer"
        then = "Accept another execution" if begun else then
        raise Denied("payer_not_allowed", f"{payer} does not pay for executions of {org_id}{ended}. {then}", "account")
    return found


def require_within(connection: sa.Connection, run: Reservation, now_ms: int) -> None:
    """Check that the payer of an execution still pays, within the payer's limit.

    The execution must be written, and the payer's wallet locked. Errors: Denied `payer_not_allowed`, `payer_limit`.
    """
    if run.payer_number is None:
        return
    found = require(connection, run.customer_id, run.org_id, now_ms, begun=True)
    if found.number != run.payer_number:
        said = (
            f"the limit that {run.customer_id} pays for {run.org_id} changed after this execution was accepted. Accept "
            "another execution"
        )
        raise Denied("payer_not_allowed", said, "account")
    require_room(connection, found, 0, now_ms=0)  # an overdue execution counts until it is marked as expired


def require_limit(connection: sa.Connection, run: Reservation, more_micro: int) -> None:
    """Refuse a charge without reserved credit if it exceeds the payer's limit.

    Such a charge is above the reservation, or after its expiry. The limit at the execution's acceptance applies. Later
    changes of the limit do not count. The payer's wallet must be locked. Errors: Denied `payer_limit`.
    """
    if run.payer_number is None or more_micro <= 0:
        return
    values = {"payer": run.customer_id, "org_id": run.org_id, "number": run.payer_number}
    row = SQL.run(connection, "numbered", values).mappings().one()
    require_room(
        connection, Payer(**{**row, "allowed": bool(row["allowed"])}), more_micro, now_ms=0
    )  # an overdue execution counts until it is marked as expired


def require_room(connection: sa.Connection, found: Payer, more_micro: int, now_ms: int) -> None:
    """Check the payer's limit for an additional amount, in micro-credits.

    Executions that were accepted under the decision count with the amount drawn. If an execution is open at `now_ms`,
    it counts with its reservation, if that is larger.

    Errors: Denied `payer_limit`, at step `credits`.
    """
    if found.limit_micro is None:
        return
    values = {"payer": found.payer, "org_id": found.org_id, "number": found.number, "now_ms": now_ms}
    total = int(SQL.run(connection, "spent", values).scalar_one()) + more_micro
    if total > found.limit_micro:
        text = (
            f"the limit of {found.payer} for executions of {found.org_id} is "
            f"{counted_credits(found.limit_micro)}. With this execution "
        )
        text += (
            f"they total {as_credits(total)}. Request less, or raise the limit of later "
            "executions with `drawdown payer allow PAYER ORG --limit CREDITS`"
        )
        raise Denied("payer_limit", text, "credits")
