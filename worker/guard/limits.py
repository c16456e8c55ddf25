"""Set, end and list the limits of plans for a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.guard.periods import Period
from drawdown.schema.declare import ID, UNITS, Action, Column, Fact, Invocation, Listing, Look, Page, Size, Values
from drawdown.worker.guard.lists import LimitRow, MetricRow, SpanRate, limit_periods, list_limits, list_metrics
from drawdown.worker.guard.terms import ANY_PLAN, MetricName, PhaseOf, PlanLimit, set_limit

Amount = Annotated[int | None, UNITS, "Quantity in base units; none for no limit"]
Per = Annotated[Period, "Period, in UTC"]
OfPlan = Annotated[str, ID, "Plan; * for all other plans, and for organisations without a plan"]
OfMetric = Annotated[str, ID, "Metric of the limits"]
MOST_LIMITS: Final = 1_000
"""Limits of a metric that a dry run searches for the limit to change."""


def amount_in_words(amount: int | None) -> str:
    return "unlimited" if amount is None else f"{amount:,}"


@dataclass(frozen=True)
class LimitSet(PlanLimit):
    """A plan's limit of a metric in a period.

    `changed`: True if the call set or changed the limit.
    """

    changed: bool = False


def _set(
    connection: sa.Connection,
    asked: Invocation,
    metric: MetricName,
    amount: Amount,
    *,
    per: Per = "month",
    plan: OfPlan = ANY_PLAN,
    phase: PhaseOf = None,
) -> LimitSet:
    terms = PlanLimit(metric, plan, per, amount, phase)
    return LimitSet(**vars(terms), changed=set_limit(connection, terms, asked.by))


def _sentence(done: LimitSet) -> str:
    said = f"{done.metric} of {done.plan}, per {done.period}: {amount_in_words(done.amount)}"
    return said if done.changed else f"{said}; unchanged"


@dataclass(frozen=True)
class LimitEnded:
    """A plan's ended limit of a metric in a period.

    `changed`: True if the call ended the limit. `periods`: the periods in which the plan still has a limit of the
    metric.
    """

    metric: str
    plan: str
    period: Period
    changed: bool
    periods: list[Period]


def _end(
    connection: sa.Connection, asked: Invocation, metric: MetricName, *, per: Per = "month", plan: OfPlan = ANY_PLAN
) -> LimitEnded:
    changed = set_limit(connection, PlanLimit(metric, plan, per, None), asked.by, ended=True)
    return LimitEnded(metric, plan, per, changed, limit_periods(connection, metric, [plan]))


def _ended(done: LimitEnded) -> str:
    lacks = "* does not have" if done.plan == ANY_PLAN else f"neither {done.plan} nor * has"
    none = f"if {lacks} another limit of {done.metric}, {done.plan} no longer allows any use of {done.metric}"
    but = f"; its limit per {' and per '.join(done.periods)} remains" if done.periods else ""
    said = f"ended; {none}" if done.changed else f"this limit does not exist{but}"
    return f"{done.metric} of {done.plan}, per {done.period}: {said}"


def _facts(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    metric, plan, per = values["metric"], values["plan"], values["per"]
    found = [one for one in list_limits(connection, metric, MOST_LIMITS) if (one.plan, one.period) == (plan, per)]
    phase = "of the metric" if not found or found[0].phase is None else str(found[0].phase)
    said = "not set" if not found else f"{amount_in_words(found[0].amount)}, phase {phase}"
    return [Fact(f"{metric} of {plan}, per {per}", said)]


def _list(connection: sa.Connection, look: Look, *, metric: OfMetric = "") -> Page[LimitRow]:
    return Page(list_limits(connection, metric, look.most))


def _metrics(connection: sa.Connection, look: Look) -> Page[MetricRow]:
    return Page(list_metrics(connection, look.now_ms, look.most))


def _blocked(rate: SpanRate) -> str:
    return f"{rate.blocked:,} of {rate.requests:,}, {rate.would:,} in phase 3"


def _size(_connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of a change of a limit. An unlimited amount is unbounded."""
    return Size(unbounded=values["amount"] is None)


SCOPE: Final = "guard:write"
SET: Final = Action(
    "limit set",
    "Set a limit",
    "Set the quantity of a metric that a plan allows. The limit applies immediately, and also to the current period.",
    _set,
    _sentence,
    path="/v1/metrics/{metric}/limits",
    scope=SCOPE,
    role="admin",
    facts=_facts,
    size=_size,
    place="/console/limits?metric={metric}",
)
ACTIONS: Final = (
    SET,
    Action(
        "limit end",
        "End a limit",
        "End a plan's limit for a metric and a period. If neither the plan nor `*` then has a limit for the metric, "
        "the plan does not allow any use of the metric.",
        _end,
        _ended,
        path="/v1/metrics/{metric}/limits/end",
        scope=SCOPE,
        role="admin",
        facts=_facts,
    ),
)
LISTS: Final = (
    Listing(
        "limit list",
        "Limits",
        "List the limits of plans.",
        _list,
        (
            "metric", "plan", "period", Column("amount", "#amount", amount_in_words),
            Column("phase", "#phase"), Column("at_ms", "since"), Column("actor", "by"), "reason",
        ),
        "limits",
        path="/v1/limits",
        scope="catalog:read",
    ),
    Listing(
        "guard list",
        "Metrics",
        "List metrics with their terms and block rates. The rates cover the last 24 hours, 7 days and 30 days. A rate "
        "shows the requests, the blocked requests, and the requests that phase 3 would block.",
        _metrics,
        (
            "metric", Column("price_micro", "#credits"), Column("per_units", "#per units"), Column("payer", "paid by"),
            Column("phase", "#phase"), Column("fails_open", "fails", lambda fails: "open" if fails else "closed"),
            Column("rates", "blocked in 24h", lambda rates: _blocked(rates[0])),
            Column("rates", "blocked in 7d", lambda rates: _blocked(rates[1])),
            Column("rates", "blocked in 30d", lambda rates: _blocked(rates[2])),
        ),
        "metrics",
        path="/v1/metrics",
        scope="catalog:read",
        most=50,
    ),
)  # fmt: skip
