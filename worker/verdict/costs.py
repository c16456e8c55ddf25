"""Learn the costs of units from a provider that shows them.

Costs serve estimates, and comparisons of balances in credits.

Guarantee: costs are append-only and on record, like an operator's rates. If a cost cannot be read, the cost in force
stays. A response never replaces a cost that was stored after its request, because another response may be newer. The
time at which a cost was last confirmed is stored, so that charges during a change of cost are known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Cost, ReadFailed
from drawdown.schema.audit import By, record
from drawdown.schema.sql import queries
from drawdown.schema.text import in_short
from drawdown.schema.units import WINDOW_MS, window_of
from drawdown.worker.catalog.costs import Pools, as_rate, read_pools
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import CLOCKS_APART_MS, ReadCosts, RunTogether, Steps, Transaction

log = structlog.get_logger()
SQL = queries(__file__)


AT_ONCE: Final = 500
"""Most costs that one transaction writes.

An account may have thousands of costs, and other writers wait for the transaction.
"""
MOST_CHANGES: Final = 1_000
"""Most costs of a feature that Drawdown ever learns.

Each estimate reads all of them, and they are never removed.
"""


def learn_costs(context: Context, provider: str) -> Steps[None]:
    """Read the costs of units from a provider, and store those that changed.

    Providers without `costs` are not read. If a cost cannot be stored, this logs it, and the other steps continue.
    """
    if not context.capabilities[provider].costs:
        return
    (came,) = yield RunTogether([_learn_costs(context, provider)])
    if isinstance(came, Exception):
        log.error("costs_not_learned", provider=provider, error=in_short(came))


def _learn_costs(context: Context, provider: str) -> Steps[None]:
    pools: Pools = yield Transaction("known_costs", partial(read_pools, provider=provider), rollback=True)
    asked_ms = context.clock.now_ms()
    told: Sequence[Cost] | ReadFailed = yield ReadCosts(provider, pools.reported_costs())
    if isinstance(told, ReadFailed):
        log.warning("costs_not_read", provider=provider, reason=told.reason)
        return
    # If a feature leaves its credit system, it draws on its own balance. That is a change, too.
    ended = sorted(pools.newest().keys() - {cost.feature for cost in told})
    features = {*ended, *(cost.feature for cost in told)}
    told = [*(cost for cost in told if not cost.unread), *(Cost(feature, feature, Decimal(0)) for feature in ended)]
    for at in range(0, len(told) or 1, AT_ONCE):
        some = told[at : at + AT_ONCE]
        # Only the last part confirms the response, as of the time of its request. A later read finds later changes.
        named = features if at + AT_ONCE >= len(told) else None
        now_ms = context.clock.now_ms()
        work = partial(_learn, provider=provider, told=some, named=named, asked_ms=asked_ms, now_ms=now_ms)
        is_stored: bool = yield Transaction("learn_costs", work)
        if not is_stored:
            return


def _learn(
    connection: sa.Connection,
    *,
    provider: str,
    told: Sequence[Cost],
    named: Collection[str] | None,
    asked_ms: int,
    now_ms: int,
) -> bool:
    """Store the costs that changed.

    Return True if all are stored, and none is newer than the response.

    `named`: all features of the response, passed with the last of its costs; None: more costs of the response follow.
    """
    # The provider's row is locked first. If two processes learn the same cost, the second process finds it stored.
    held = SQL.run(connection, "hold_costs", {"provider": provider}).first()
    if held is None:
        return False  # a tick stores this row with the provider's terms before its first seal
    # Ignore a mark after this time, because a wrong clock set it. Otherwise, Drawdown would ignore all responses until
    # that time.
    latest_ms = now_ms + CLOCKS_APART_MS
    if held.costs_read_ms is not None and asked_ms < held.costs_read_ms <= latest_ms:
        return False
    pools = read_pools(connection, provider)
    known = pools.newest()
    is_stored = True
    for cost in told:
        micro, per_quantity = as_rate(cost.credits)
        before = known.get(cost.feature)
        if before is not None and (before.balance, before.micro, before.per_quantity) == (
            cost.balance,
            micro,
            per_quantity,
        ):
            continue
        if before is not None and asked_ms < before.at_ms:
            is_stored = False  # the next read decides which response is newer
            continue
        if pools.count(cost.feature) >= MOST_CHANGES:
            log.error("cost_changes_too_often", provider=provider, feature=cost.feature, cost=str(cost.credits))
            continue
        details = {
            "feature": cost.feature,
            "micro": micro,
            "per_quantity": per_quantity,
            "start_ms": _start_ms(connection, provider, cost.feature, now_ms),
        }
        by = By(now_ms, "drawdown", f"reported by {provider}")
        # If costs were read before without this cost, its feature drew on its own balance until then.
        confirmed = held.costs_read_ms if before is None else held.costs_read_ms or before.at_ms
        confirmed = None if confirmed is None else min(confirmed, now_ms)
        more = {"balance": cost.balance, "confirmed_ms": confirmed, "provider": provider}
        said = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
        SQL.run(connection, "insert_cost", {**details, **more, **said})
        record(connection, "provider_rate", provider, details, by)
        log.info("cost_learned", provider=provider, balance=cost.balance, feature=cost.feature, cost=str(cost.credits))
    # Without this check, a feature that another response named meanwhile would count as confirmed.
    if is_stored and named is not None and known.keys() <= set(named):
        SQL.run(connection, "costs_read", {"provider": provider, "asked_ms": asked_ms, "latest_ms": latest_ms})
    return is_stored


def _start_ms(connection: sa.Connection, provider: str, feature: str, now_ms: int) -> int:
    """Return the start of the first window in which a cost counts in estimates.

    The first cost of a feature counts for all usage, a later cost from the present window on.
    """
    taken = set(SQL.run(connection, "starts", {"provider": provider, "feature": feature}).scalars())
    start = window_of(now_ms) if taken else 0
    while start in taken:
        start += WINDOW_MS
    return start
