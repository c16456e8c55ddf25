"""The credit of plans.

Each month, a plan grants its included credit and the rollover. A new customer also gets a first credit.

Guarantee: terms are added and never changed. Lots that begin later use the new terms, and earlier lots do not change.
Due credit depends only on stored rows: a customer's plan at each moment, and the terms of the plan at that moment. Each
month of a plan is granted only once, under its key, however often Drawdown checks it. A late check still grants the
month, even if Drawdown did not run in that month. A customer who joins a plan during a month gets all of its credit,
from then on. The caller holds the wallet's lock.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import accounts
from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.allocation import DEFAULT_PRIORITY, Lot
from drawdown.ledger.calendar import next_start, period_of, start_of
from drawdown.schema.audit import By
from drawdown.schema.sql import Part, queries

SQL = queries(__file__)

GIVEN_AT_ONCE: Final = 12
"""Overdue grants of one wallet's plans that one transaction makes."""


@dataclass(frozen=True)
class Stay:
    """The time of a customer on a plan, from `since_ms` to the next stay.

    `since_ms` is in milliseconds. `number`: the number of the customer's stay, from 1.
    """

    number: int
    plan: str
    since_ms: int


@dataclass
class DueGrants:
    """The credit that plans owe.

    `lots`: the lots to grant. `caught_up`: customers who then have all of their credit. `unfinished`: customers with
    more overdue lots than one call returns.
    """

    lots: list[Lot] = field(default_factory=list)
    caught_up: list[str] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)


def hold_plans(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> None:
    """Lock the plans that may owe these customers credit, until this transaction ends.

    Then the terms cannot change between the computation and the commit.
    """
    plans = SQL.run(connection, "plans_behind", _of(customer_ids, now_ms)).scalars().all()
    if plans:
        accounts.hold_plans(connection, plans)


def behind_part(customer_ids: Sequence[str], now_ms: int) -> Part:
    """Return the query of customers that plans may owe credit.

    Pass its rows to `due`.
    """
    return SQL.part("behind", _of(customer_ids, now_ms))


def due(connection: sa.Connection, behind: Sequence[str], now_ms: int) -> DueGrants:
    """Return the credit that plans owe these customers, without granting it."""
    found = DueGrants()
    if not behind:
        return found
    stays: dict[str, list[Stay]] = defaultdict(list)
    for row in SQL.run(connection, "stays", {"customers": behind}):
        stays[row.customer_id].append(Stay(row.number, row.plan, row.since_ms))
    terms = of_plans(connection, {stay.plan for those in stays.values() for stay in those})
    there = set(SQL.run(connection, "there", {"customers": behind}).scalars())
    for customer_id in behind:
        lots = list(itertools.islice(_lots(customer_id, stays[customer_id], terms, there, now_ms), GIVEN_AT_ONCE + 1))
        found.lots += lots[:GIVEN_AT_ONCE]
        if len(lots) > GIVEN_AT_ONCE:
            found.unfinished.add(customer_id)
        elif all(stay.since_ms <= now_ms for stay in stays[customer_id]):
            found.caught_up.append(customer_id)
    return found


def _lots(
    customer_id: str, stays: Sequence[Stay], terms: Mapping[str, Sequence[Terms]], there: Collection[str], now_ms: int
) -> Iterator[Lot]:
    """Yield the lots that do not exist yet, in the order of their starts."""
    new: set[str] = set()
    for stay, after in itertools.zip_longest(stays, stays[1:]):
        of_plan = terms.get(stay.plan, ())
        beyond_ms = now_ms + 1 if after is None else min(after.since_ms, now_ms + 1)
        for begins_ms in _begins(stay.since_ms, beyond_ms, of_plan):
            for lot in _begun(customer_id, stay, of_plan, begins_ms, now_ms):
                if lot.lot not in there and lot.lot not in new:
                    new.add(lot.lot)
                    yield lot


def _begins(since_ms: int, beyond_ms: int, of_plan: Sequence[Terms]) -> Iterator[int]:
    """Yield the moments at which the credit of a plan begins in a stay.

    They are the start of the stay, and the start of each month.

    Credit never begins before the plan's first terms.
    """
    if not of_plan:
        return
    if since_ms < beyond_ms:
        yield since_ms
    begins_ms = next_start(max(since_ms, of_plan[0].from_ms - 1))
    while begins_ms < beyond_ms:
        yield begins_ms
        begins_ms = next_start(begins_ms)


def _begun(customer_id: str, stay: Stay, of_plan: Sequence[Terms], begins_ms: int, now_ms: int) -> Iterator[Lot]:
    """Yield the lots that a plan grants at a moment of a stay."""
    gives = in_force(of_plan, begins_ms)
    if gives.first_micro and stay.number == 1 and begins_ms == stay.since_ms:
        yield Lot(
            lot=f"first:{customer_id}",
            customer_id=customer_id,
            kind="bonus",
            amount_micro=gives.first_micro,
            priority=DEFAULT_PRIORITY,
            begins_ms=begins_ms,
            expires_ms=None,
            features=None,
            at_ms=now_ms,
            actor="drawdown",
            reason=f"the first credit of {stay.plan}",
            part="first",
            plan=stay.plan,
        )
    if gives.included_micro:
        period = period_of(begins_ms)
        yield Lot(
            lot=f"included:{customer_id}:{stay.plan}:{period}",
            customer_id=customer_id,
            kind="included",
            amount_micro=gives.included_micro,
            priority=DEFAULT_PRIORITY,
            begins_ms=begins_ms,
            expires_ms=next_start(begins_ms),
            features=None,
            at_ms=now_ms,
            actor="drawdown",
            reason=f"included in {stay.plan} for {period}",
            part="included",
            plan=stay.plan,
            period=period,
            rollover_min_micro=gives.rollover_min_micro,
            rollover_max_micro=gives.rollover_max_micro,
        )


def keep(connection: sa.Connection, lots: Sequence[Lot]) -> None:
    """Store the lots of plans, with the plan and the month of each."""
    if lots:
        SQL.run(connection, "give", {"lots": [vars(lot) for lot in lots]})


def caught_up(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> None:
    """Mark wallets as having all credit of their plans up to now."""
    if customer_ids:
        SQL.run(connection, "caught_up", _of(customer_ids, now_ms))


def _of(customer_ids: Sequence[str], now_ms: int) -> dict[str, object]:
    return {"accounts": [wallet_account(one) for one in customer_ids], "month_ms": start_of(now_ms)}


@dataclass(frozen=True)
class Gives:
    """The credit of a plan, in micro-credits.

    `included_micro`: the credit of each month; 0: the plan does not include credit. `rollover_min_micro`,
    `rollover_max_micro`: unused credit rolls over if it is at least `rollover_min_micro`, up to `rollover_max_micro`.
    `rollover_max_micro` 0: unused credit does not roll over. `first_micro`: the credit that a new customer gets once.
    """

    included_micro: int = 0
    rollover_min_micro: int = 0
    rollover_max_micro: int = 0
    first_micro: int = 0


NOTHING = Gives()


@dataclass(frozen=True)
class Terms:
    """The credit that a plan grants from a moment on (milliseconds)."""

    from_ms: int
    gives: Gives


def newest(connection: sa.Connection, plan: str) -> Gives:
    """Return the credit that a plan grants by its newest terms."""
    row = SQL.run(connection, "newest", {"plan": plan}).mappings().one_or_none()
    return NOTHING if row is None else Gives(**row)


def set_gives(connection: sa.Connection, plan: str, gives: Gives, by: By) -> int | None:
    """Set the credit that a plan grants from now on.

    Return the moment from which it applies, in milliseconds; None if the credit stays the same. This transaction must
    have locked the plan's row.
    """
    if newest(connection, plan) == gives:
        return None
    values = {**vars(gives), "plan": plan, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    return int(SQL.run(connection, "add", values).scalar_one())


def of_plans(connection: sa.Connection, plans: Collection[str]) -> Mapping[str, Sequence[Terms]]:
    """Return all terms that these plans ever had, by plan, the oldest first."""
    found: dict[str, list[Terms]] = defaultdict(list)
    for row in SQL.run(connection, "of_plans", {"plans": sorted(plans)}):
        gives = Gives(row.included_micro, row.rollover_min_micro, row.rollover_max_micro, row.first_micro)
        found[row.plan].append(Terms(row.from_ms, gives))
    return found


def in_force(terms: Sequence[Terms], moment_ms: int) -> Gives:
    """Return the credit that a plan granted at a moment, by all of its terms."""
    return next((one.gives for one in reversed(terms) if one.from_ms <= moment_ms), NOTHING)
