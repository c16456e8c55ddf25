"""An operator's changes of the embedded ledger.

Guarantee: organisations whose verdict may change by one are marked, so that the next tick asks again.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger import accounts, wallet
from drawdown.ledger.rates import Rate
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import FEATURE_NAME, is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import next_window
from drawdown.worker.catalog.wallets import customers_on, orgs_of
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)


def grant(
    connection: sa.Connection,
    customer_id: str,
    amount_micro: int,
    by: By,
    *,
    key: str,
    plan: str | None,
    new: bool = True,
) -> wallet.Granted:
    """Give credit, in micro-credits. The same grant under the same key again adds nothing, so whoever lost the answer
    may repeat it; the record tells of it once, and of a repetition only the plan that it changed.

    Errors: Refused for a key used before with another amount or customer; UnknownId for a plan there is not, and unless
    `new` for a customer who is no organisation, has no wallet and was never assigned.
    """
    if not is_clean_id(customer_id):
        raise UsageError("a customer's id has 1 to 200 characters, none of them control characters")
    ids.require(connection, ids.CUSTOMER, customer_id, new=new)
    if plan is not None:
        ids.require(connection, ids.PLAN, plan)
    name = f"grant:{key}"
    was = wallet_of(connection, customer_id).plan
    if plan is not None:
        accounts.set_plan(connection, customer_id, plan)
    granted = wallet.grant(
        connection, customer_id, amount_micro, key=name, now_ms=by.now_ms, actor=by.actor, reason=by.reason
    )
    if not granted.repeated:
        details = {"amount_micro": amount_micro, "key": name, "plan": plan}
        record(connection, "ledger_grant", customer_id, details, by)
    elif plan not in (None, was):
        record(connection, "ledger_customer_plan", customer_id, {"plan": plan, "was": was}, by)
    mark_for_projection(connection, orgs_of(connection, [customer_id]), by.now_ms)
    return granted


def wallet_of(connection: sa.Connection, customer_id: str) -> accounts.Wallet:
    """A customer's wallet; empty where it was never used."""
    return accounts.read_wallets(connection, [customer_id])[customer_id]


def require_wallet(connection: sa.Connection, customer_id: str) -> accounts.Wallet:
    """The wallet of a customer who is an organisation, was assigned or has credit. Errors: UnknownId."""
    ids.require(connection, ids.CUSTOMER, customer_id)
    return wallet_of(connection, customer_id)


def rate_at(connection: sa.Connection, feature: str, moment_ms: int) -> Rate | None:
    """What a feature costs at a moment, by the rate card; None where it has no rate."""
    return wallet.read_rate_card(connection).rate(feature, moment_ms)


def set_rate(
    connection: sa.Connection,
    feature: str,
    micro_credits: int,
    per_quantity: int,
    by: By,
    *,
    from_ms: int | None,
    new: bool = True,
) -> int:
    """Set what `per_quantity` base units of a feature cost, for usage from a window on; returns that window.

    A feature's first rate counts for all its usage, later ones from the next window boundary on. The rate that holds
    then anyway changes nothing: who was not told that it was kept says it again, and is told from when it has held.
    Errors: UsageError for a name no feature has; Refused for a second rate from the same window on; UnknownId, unless
    `new`, for a feature that nothing makes.
    """
    if not FEATURE_NAME.fullmatch(feature):
        raise UsageError(
            "a feature's name is made of a-z, 0-9 and _, at most 64 of them, and is no number or r and a number"
        )
    ids.require(connection, ids.FEATURE, feature, new=new)
    card = wallet.read_rate_card(connection)
    known = any(rate.feature == feature for rate in card.rates)
    start = from_ms if from_ms is not None else (next_window(by.now_ms) if known else 0)
    holds = card.rate(feature, start)
    if holds is not None and (holds.micro_credits, holds.per_quantity) == (micro_credits, per_quantity):
        return holds.start_ms
    details = {"micro_credits": micro_credits, "per_quantity": per_quantity, "start_ms": start}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    # By the row itself: of two people who say it in one moment, the second is told.
    if SQL.run(connection, "insert_rate", {**details, "feature": feature, **person}).first() is None:
        raise Refused(f"{feature} has a rate from then on already; rates are append-only, begin a new one later")
    record(connection, "ledger_rate", feature, details, by)
    return start


def set_plan_limit(
    connection: sa.Connection, plan: str, max_concurrent: int, by: By, *, new: bool = True
) -> int | None:
    """Change how many sandboxes at once a plan allows, or make one; returns how many it allowed before, None where it
    was not there. Errors: UsageError for a name that is none; UnknownId, unless `new`."""
    if not is_clean_id(plan):
        raise UsageError("a plan's name has 1 to 200 characters, none of them control characters")
    ids.require(connection, ids.PLAN, plan, new=new)
    was: int | None = SQL.run(connection, "plan_limit", {"plan": plan}).scalar()
    SQL.run(connection, "set_plan_limit", {"plan": plan, "max_concurrent_sandboxes": max_concurrent})
    details = {"max_concurrent": max_concurrent, "was": was}
    record(connection, "ledger_plan", plan, details, by)
    mark_for_projection(connection, orgs_of(connection, customers_on(connection, plan)), by.now_ms)
    return was


@dataclass(frozen=True)
class Plan:
    """A plan of the embedded ledger: sandboxes at once, and how many customers are on it."""

    plan: str
    max_concurrent: int
    customers: int


def list_plans(connection: sa.Connection) -> list[Plan]:
    """All plans, by name."""
    return [Plan(row.plan, row.max_concurrent, row.customers) for row in SQL.run(connection, "plans")]
