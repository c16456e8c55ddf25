"""What a decision of the guard goes by: who asks, the metric, what the plan allows, and what people put in its place.

Guarantee: nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.guard.decide import Facts, Limit, Override
from drawdown.ledger.accounts import wallet_account
from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.executions.payer import Asker, read_asker
from drawdown.worker.executions.request import Request, require_life
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.counters import Counters
from drawdown.worker.guard.terms import ANY_PLAN, MAX_UNITS, Metric

SQL = queries(__file__)


@dataclass(frozen=True)
class Wish:
    """What is to be used: so many base units of a metric by an organisation; for how long a hold stands
    (milliseconds); the run's labels; and whose wallet pays, in place of the metric's word (see `Request.payer`)."""

    org_id: str
    metric: str
    amount: int
    for_ms: int | None = None
    project: str | None = None
    subject: str | None = None
    payer: str | None = None


@dataclass(frozen=True)
class Known:
    """Who asks, and what of the metric counts for it. `customer_id` has the plan that is gone by."""

    metric: Metric
    asker: Asker
    customer_id: str
    plan: str | None
    pays: bool
    halted: str | None
    limits: tuple[Limit, ...]
    overrides: tuple[Override, ...]

    def facts(self, counters: Counters, no_credit: str | None = None) -> Facts:
        return Facts(
            phase=self.metric.phase,
            warn_ppm=self.metric.warn_ppm,
            pays=self.pays,
            limits=self.limits,
            counted=counters.counted,
            overrides=self.overrides,
            halted=self.halted,
            no_credit=no_credit,
            fails_open=self.metric.fails_open,
        )


def require_sane(wish: Wish) -> None:
    """Errors: UsageError."""
    if not 0 < wish.amount <= MAX_UNITS:
        raise UsageError(f"an amount is a whole number from 1 to {MAX_UNITS:,} base units of the metric")
    for label in (wish.project, wish.subject):
        if label is not None and not is_clean_id(label):
            raise UsageError("a project or subject has 1 to 200 characters, none of them control characters")
    require_life(wish.for_ms)


def know(connection: sa.Connection, wish: Wish, now_ms: int) -> Known:
    """Errors: UnknownId for a metric that is none, or an organisation that nobody knows."""
    metric = guard_terms.find(connection, wish.metric)
    asker = read_asker(connection, wish.org_id, now_ms)
    billed = asker.provider is not None and asker.provider not in EXEMPT_PROVIDERS
    customer = asker.customer_id if billed and asker.customer_id else wish.org_id
    values = {"customer_id": customer, "account_id": wallet_account(customer), "org_id": wish.org_id}
    row = SQL.run(connection, "customer", values).one()
    if asker.provider is None and not row.has_wallet:
        ids.require(connection, ids.ASKING, wish.org_id)
    said = {"metric": wish.metric, "org_id": wish.org_id, "plan": row.plan or "", "now_ms": now_ms}
    given = {"its_metric": "given_metric", "its_plan": "given_plan"}
    limits = limits_of(Limit(**one) for one in SQL.run(connection, "limits", said, **given).mappings())
    rows = SQL.run(connection, "overrides", said, **given, its_org="given_org").mappings()
    overrides = tuple(Override(**one) for one in rows)
    return Known(metric, asker, customer, row.plan, bool(row.pays), halted_by(asker), limits, overrides)


def limits_of(found: Iterable[Limit]) -> tuple[Limit, ...]:
    """Those that count: in each period the plan's own, or else that of any plan."""
    limits: dict[str, Limit] = {}
    for one in sorted(found, key=lambda limit: limit.plan == ANY_PLAN):
        limits.setdefault(one.period, one)
    return tuple(limits.values())


def halted_by(asker: Asker) -> str | None:
    """Why an operator lets nothing of an organisation run."""
    if asker.stopped_at_ms is not None:
        return "stopped"
    return "halted" if asker.is_halted and asker.halt_reason == "operator" else None


def run_of(wish: Wish, metric: Metric, amount_micro: int) -> Request:
    """The run that charges for it: the organisation's own, or, where the metric names who pays, that one's, with the
    organisation as its subject."""
    if metric.payer is None or wish.payer is not None:
        return Request(
            wish.org_id, amount_micro, project=wish.project, subject=wish.subject, action=metric.metric,
            for_ms=wish.for_ms, payer=wish.payer,
        )  # fmt: skip
    return Request(
        metric.payer, amount_micro, project=wish.project, subject=wish.org_id, action=metric.metric, for_ms=wish.for_ms
    )
