"""An operator's input for estimates. `worker.verdict.rates` reads it, and states the guarantee for it."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import FEATURE_NAME
from drawdown.schema.sql import queries
from drawdown.schema.units import next_window
from drawdown.worker.verdict.rates import POLICIES, policies_of, rate_card_of, tells_costs, uses_ledger

SQL = queries(__file__)


def set_rate(
    connection: sa.Connection,
    provider: str,
    feature: str,
    rate: tuple[int, int],
    by: By,
    *,
    from_ms: int | None,
    new: bool = True,
    tells: bool = True,
) -> int:
    """Set what usage of a feature costs: `rate` is (micro, per quantity). Returns from which window on.

    A feature's first rate counts for all its usage, later ones from the next window boundary on. The rate that holds
    then anyway changes nothing: who was not told that it was kept says it again, and is told from when it has held.
    `tells`: whether the provider declares that it tells costs. Errors: UsageError for a name no feature has; Refused
    where the ledger's card holds, the provider told its costs, or there is a rate from then; UnknownId, unless `new`,
    for a feature that nothing makes.
    """
    if not FEATURE_NAME.fullmatch(feature):
        raise UsageError(
            "a feature's name is made of a-z, 0-9 and _, at most 64 of them, and is no number or r and a number"
        )
    if uses_ledger(connection, provider):
        raise Refused(f"{provider} goes by the ledger's rate card: `drawdown ledger rate {feature} --micro-credits N`")
    if tells and tells_costs(connection, provider):
        raise Refused(
            f"the rate of {feature} is not set: {provider} reports its own costs, and estimates use these. "
            f"Run `drawdown provider rate {provider}` to list them"
        )
    ids.require(connection, ids.FEATURE, feature, new=new)
    card = rate_card_of(connection, provider)
    known = any(given.feature == feature for given in card.rates)
    start = from_ms if from_ms is not None else (next_window(by.now_ms) if known else 0)
    holds = card.rate(feature, start)
    if holds is not None and (holds.micro_credits, holds.per_quantity) == rate:
        return holds.start_ms
    details = {"feature": feature, "micro": rate[0], "per_quantity": rate[1], "start_ms": start}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    # By the row itself: of two people who say it in one moment, the second is told.
    if SQL.run(connection, "insert_rate", {**details, "provider": provider, **person}).first() is None:
        taken = rate_card_of(connection, provider).taken(feature, start, by.now_ms)
        raise Refused(f"{feature} has a rate at {provider} {taken}")
    record(connection, "provider_rate", provider, details, by)
    return start


def set_when_down(
    connection: sa.Connection, provider: str, plan: str, policy: str, by: By, *, new: bool = True
) -> str | None:
    """Say what holds for customers of a plan ('': every other one) while the provider cannot be read; returns what was
    said before. Errors: UsageError; UnknownId, unless `new`, for a plan that nobody told of."""
    if policy not in POLICIES:
        raise UsageError(f"the policy {policy!r} is none of {', '.join(POLICIES)}")
    if plan:
        ids.require(connection, ids.ANY_PLAN, plan, new=new)
    was = policies_of(connection, provider).get(plan)
    SQL.run(connection, "set_when_down", {"provider": provider, "plan": plan, "policy": policy})
    details = {"plan": plan, "policy": policy, "was": was}
    record(connection, "provider_when_down", provider, details, by)
    return was


def end_when_down(connection: sa.Connection, provider: str, plan: str, by: By) -> str:
    """Undo what was said of a plan (or '': of every other one); returns it. Errors: Refused where nothing was."""
    was = policies_of(connection, provider).get(plan)
    if was is None:
        raise Refused(f"nothing was said of {f'the plan {plan}' if plan else 'every other plan'} at {provider}")
    SQL.run(connection, "delete_when_down", {"provider": provider, "plan": plan})
    details = {"plan": plan, "was": was}
    action = "provider_when_down_undo"
    record(connection, action, provider, details, by)
    return was
