"""Set and read the guard's terms: metrics, prices, limits of plans.

Guarantee: each change of terms or limits adds a row, and the row with the highest number counts. If you set the same
terms again, the call does not add a row. `know`, which reads the facts for a decision, does not write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.guard.decide import BLOCK_ALL, ONE_PPM, SILENT, Facts, Limit, Override, Price
from drawdown.guard.periods import Period
from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import CREDITS, ID, ONE, PERCENT, Action, Fact, Invocation, Label, New, Size, Values, whole
from drawdown.schema.errors import DatabaseBusy, UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value
from drawdown.schema.typed.parsing import show_credits
from drawdown.schema.units import EXEMPT_PROVIDERS, counted_credits
from drawdown.worker.executions.permission import Asker, read_asker
from drawdown.worker.executions.request import Request, require_life
from drawdown.worker.guard.counters import Counters
from drawdown.worker.orgs import double_billing
from drawdown.worker.sources.events import types

SQL = queries(__file__)

ANY_PLAN: Final = "*"
"""The plan name of limits for every plan without a separate limit.

These limits also apply to organisations without a plan.
"""
MAX_UNITS: Final = 10**12
"""Most base units of one use, of a limit, and of a price.

The sum of nine million such uses still fits in 64 bits.
"""
LITTLE_PPM: Final = 200_000
"""Remaining parts per million of a limit, at or below which the guard warns.

A metric can set another value.
"""


@dataclass(frozen=True)
class Metric:
    """A metric: its price, its payer and its phase.

    `number`: the number of these terms, from 1. `price_micro`: micro-credits for `per_units` base units. `payer`: the
    organisation that pays (None: the organisation that uses the metric). `phase`: the phase, from 0 to 3, that decides
    about enforcement. `warn_ppm`: the remaining part of a limit at which a warning begins, in parts per million.
    `fails_open`: use is allowed if the credit is unknown. `counts`: the event type or feature of the mapping that the
    metric counts (None: the event type or feature with the metric's name).
    """

    metric: str
    number: int
    price_micro: int = 0
    per_units: int = 1
    payer: str | None = None
    phase: int = SILENT
    warn_ppm: int = LITTLE_PPM
    fails_open: bool = False
    counts: str | None = None

    @property
    def price(self) -> Price:
        return Price(self.price_micro, self.per_units)


@dataclass(frozen=True)
class Change:
    """The changes of a metric. A field that is None does not change.

    `payer` "": the organisation itself pays. `counts` "": the event type or feature with the metric's name.
    """

    price_micro: int | None = None
    per_units: int | None = None
    payer: str | None = None
    phase: int | None = None
    warn_ppm: int | None = None
    fails_open: bool | None = None
    counts: str | None = None


@dataclass(frozen=True)
class PlanLimit:
    """A plan's limit of a metric in a period, in base units.

    `amount` None: unlimited. `phase` None: the phase of the metric.
    """

    metric: str
    plan: str
    period: Period
    amount: int | None
    phase: int | None = None


def hold(connection: sa.Connection, metric: str) -> bool:
    """Lock a metric. Return True if it exists.

    Until this transaction ends, other transactions cannot change the metric or its limits, and cannot make or request a
    limit override of it.
    """
    return SQL.run(connection, "hold", {"metric": metric}).first() is not None


def find(connection: sa.Connection, metric: str, number: int | None = None) -> Metric:
    """Return a metric with its newest terms, or with those of a number.

    Errors: UnknownId; UsageError for an unknown number, or if the metric was created just now.
    """
    found = _latest(connection, metric, number)
    if found is None:
        ids.require(connection, ids.METRIC, metric)
        raise UsageError(explain_race("metric", metric))
    return found


def set_metric(
    connection: sa.Connection, metric: str, change: Change, by: By, *, new: bool = True
) -> tuple[Metric, Metric | None]:
    """Change or create a metric.

    Return the metric after the change and before it (None: it is new). Earlier uses keep their price.

    Errors: UsageError for invalid values. UnknownId for an unknown payer, and for an unknown metric unless `new`.
    Refused for a price of usage that the seal bills, or of an event type with pending usage (`double_billing`).
    DatabaseBusy.
    """
    if not is_clean_id(metric) or metric == ANY_PLAN:
        raise UsageError(
            f"invalid metric name {quote_value(metric)}: expected 1 to 200 characters without control "
            "characters, but not *"
        )
    ids.require(connection, ids.METRIC, metric, new=new)
    if change.payer:
        ids.require(connection, ids.CUSTOMER, change.payer)
    if change.counts:
        ids.require(connection, ids.MAPPED, change.counts, new=new)
    seen = _latest(connection, metric)
    now = _changed(metric, seen, change)
    _require_sane(now)
    counts, meter = _charges_for(seen, now), None
    if counts is not None:
        meter = types.hold(connection, counts, by.now_ms)
        lock_buckets(connection)
    was = _latest(connection, metric) if hold(connection, metric) else None
    now = _changed(metric, was, change)
    if _charges_for(was, now) not in (None, counts):
        raise DatabaseBusy(f"cannot change the metric {metric!r}: another call just changed it. Try again")
    if counts is not None:
        double_billing.require_unmetered(connection, metric, counts, by.now_ms)
        is_new = was is None or not was.price_micro or was.counts != now.counts
        if is_new and meter is not None:
            double_billing.require_nothing_waits(connection, metric, counts, meter)
    if now != was:
        now = replace(now, number=now.number + 1)
        values = {**vars(now), "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
        if SQL.run(connection, "add_metric", values).first() is None:  # a concurrent call just created it
            return set_metric(connection, metric, change, by)
        details = {name: value for name, value in vars(now).items() if name != "metric"}
        record(connection, "guard_metric", metric, details, by)
    return now, was


def set_limit(connection: sa.Connection, limit: PlanLimit, by: By, *, ended: bool = False) -> bool:
    """Set a plan's limit, or end it (`ended`). Return True if it changed.

    The limit applies immediately, also in the present period.

    Errors: UnknownId; UsageError for an invalid amount or phase.
    """
    find(connection, limit.metric)
    if limit.plan != ANY_PLAN:
        ids.require(connection, ids.ANY_PLAN, limit.plan)
    if limit.amount is not None and not 0 <= limit.amount <= MAX_UNITS:
        raise UsageError(
            f"invalid limit {limit.amount}: expected a whole number from 0 to {MAX_UNITS:,}, or none for unlimited"
        )
    _require_phase(limit.phase)
    hold(connection, limit.metric)
    key = {"metric": limit.metric, "plan": limit.plan, "period": limit.period}
    row = SQL.run(connection, "last_limit", key).one_or_none()
    if ended:
        if row is None or row.ended:
            return False
        limit = replace(limit, amount=row.amount, phase=row.phase)
    elif row is not None and (bool(row.ended), row.amount, row.phase) == (False, limit.amount, limit.phase):
        return False
    number = 1 if row is None else row.number + 1
    said = {"number": number, "ended": ended, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "add_limit", {**vars(limit), **said})
    record(connection, "guard_limit", limit.metric, {**vars(limit), "number": number, "ended": ended}, by)
    return True


def _latest(connection: sa.Connection, metric: str, number: int | None = None) -> Metric | None:
    row = SQL.run(connection, "metric", {"metric": metric, "number": number}).mappings().one_or_none()
    return None if row is None else Metric(**{**row, "fails_open": bool(row["fails_open"])})


def _changed(metric: str, was: Metric | None, change: Change) -> Metric:
    given = {name: value for name, value in vars(change).items() if value is not None}
    now = replace(was or Metric(metric, 0), **given)
    return replace(now, payer=now.payer or None, counts=now.counts or None)


def _charges_for(was: Metric | None, now: Metric) -> str | None:
    """Return the event type or feature that a metric newly charges for.

    Return None if the metric does not have a price, or if both its price and the event type or feature are unchanged.
    """
    is_new = was is None or (was.price_micro, was.counts) != (now.price_micro, now.counts)
    return (now.counts or now.metric) if now.price_micro and is_new else None


def _require_sane(metric: Metric) -> None:
    if not 0 <= metric.price_micro <= MAX_ENTRY_MICRO or not 0 < metric.per_units <= MAX_UNITS:
        raise UsageError(
            f"invalid price of {counted_credits(metric.price_micro)} for {counted(metric.per_units, 'unit')}: "
            f"expected 0 to 1,000,000,000 credits, for 1 to {MAX_UNITS:,} units"
        )
    if not 0 <= metric.warn_ppm <= ONE_PPM:
        raise UsageError(
            f"invalid remaining share for a warning, {metric.warn_ppm:,} ppm: expected 0 to {ONE_PPM:,} ppm"
        )
    if metric.counts is not None and not is_clean_id(metric.counts):
        raise UsageError(
            f"invalid name of the counted usage {quote_value(metric.counts)}: expected 1 to 200 characters "
            "without control characters"
        )
    _require_phase(metric.phase)


def _require_phase(phase: int | None) -> None:
    if phase is not None and not SILENT <= phase <= BLOCK_ALL:
        raise UsageError(
            f"invalid phase {phase}: expected 0 (silent), 1 (warn), 2 (block organisations that never bought "
            "credit) or 3 (block all)"
        )


@dataclass(frozen=True)
class Wish:
    """A use to decide: a quantity of a metric, in base units, by an organisation.

    `for_ms`: the duration of a reservation, in milliseconds (None: an hour). `project`, `subject`: labels of the
    execution that charges the use. `payer`: the payer, in place of the metric's payer (see `Request.payer`).
    """

    org_id: str
    metric: str
    quantity: int
    for_ms: int | None = None
    project: str | None = None
    subject: str | None = None
    payer: str | None = None


@dataclass(frozen=True)
class AskerTerms:
    """The facts for a decision about an organisation: metric, plan and limits.

    `customer_id`: the customer that has the plan (`plan` None: without a plan). `pays`: the customer ever bought
    credit. `halted`: `stopped` or `halted` if an operator stopped or halted the organisation (None: neither).
    """

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
    """Refuse a wish with an invalid quantity, label or length. Errors: UsageError."""
    if not 0 < wish.quantity <= MAX_UNITS:
        raise UsageError(
            f"invalid quantity {wish.quantity}: expected a whole number from 1 to {MAX_UNITS:,} base "
            "units of the metric"
        )
    for field, label in (("project", wish.project), ("subject", wish.subject)):
        if label is not None and not is_clean_id(label):
            raise UsageError(
                f"invalid {field} {quote_value(label)}: expected 1 to 200 characters without control characters"
            )
    require_life(wish.for_ms)


def know(connection: sa.Connection, wish: Wish, now_ms: int) -> AskerTerms:
    """Return the facts for a decision, except the counters.

    Errors: UnknownId for the metric or the organisation.
    """
    metric = find(connection, wish.metric)
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
    return AskerTerms(metric, asker, customer, row.plan, bool(row.pays), halted_by(asker), limits, overrides)


def limits_of(found: Iterable[Limit]) -> tuple[Limit, ...]:
    """Return the limits that apply.

    In each period, the limit of the plan itself applies, or else the limit of every plan (`*`).
    """
    limits: dict[str, Limit] = {}
    for one in sorted(found, key=lambda limit: limit.plan == ANY_PLAN):
        limits.setdefault(one.period, one)
    return tuple(limits.values())


def halted_by(asker: Asker) -> str | None:
    """Return `stopped` or `halted` for an organisation that is blocked in each phase.

    `stopped`: an operator or Drawdown (S8) stopped it. `halted`: an operator halted it. None: neither is in force.
    """
    if asker.stopped_at_ms is not None:
        return "stopped"
    return "halted" if asker.is_halted and asker.halt_reason == "operator" else None


def run_of(wish: Wish, metric: Metric, amount_micro: int) -> Request:
    """Return the request of the execution that charges a use.

    The execution belongs to the organisation. If the metric has a payer, and the wish does not name a payer, the
    execution belongs to the metric's payer. It then has the organisation as its subject.
    """
    if metric.payer is None or wish.payer is not None:
        return Request(
            wish.org_id, amount_micro, project=wish.project, subject=wish.subject, action=metric.metric,
            for_ms=wish.for_ms, payer=wish.payer,
        )  # fmt: skip
    return Request(
        metric.payer, amount_micro, project=wish.project, subject=wish.org_id, action=metric.metric, for_ms=wish.for_ms
    )


# Actions.

MetricName = Annotated[str, ID, "Name of the metric"]
PhaseOf = Annotated[
    int | None, whole(0, 3, 3), "Phase: 0 silent, 1 warn, 2 block organisations that never bought credit, 3 block all"
]


@dataclass(frozen=True)
class MetricSet(Metric):
    """A metric as it is now.

    `was`: the metric before the call (null: it is new). `changed`: True if the call changed the metric.
    """

    was: Metric | None = None
    changed: bool = False


def _set(
    connection: sa.Connection,
    asked: Invocation,
    metric: MetricName,
    *,
    credits_micro: Annotated[int | None, CREDITS, "Price in credits; 0 for no charge"] = None,
    for_: Annotated[int | None, whole(1, MAX_UNITS, 1), "Number of base units for this price"] = None,
    payer: Annotated[str | None, ID, "Wallet that pays in place of the organisation; none for the organisation"] = None,
    phase: PhaseOf = None,
    warn_left_ppm: Annotated[
        int | None,
        PERCENT,
        "Percentage left at which the guard warns; 20 for a new metric",
        Label("Warn at, per cent left"),
    ] = None,
    fail: Annotated[
        Literal["open", "closed"] | None,
        "Decision if the credit is unknown; closed for a new metric",
        Label("If credit is unknown"),
    ] = None,
    counts: Annotated[str | None, ID, "Event type or feature that the metric counts; none for its own name"] = None,
    new: New = False,
) -> MetricSet:
    change = Change(
        price_micro=credits_micro,
        per_units=for_,
        payer="" if payer == "none" else payer,
        phase=phase,
        warn_ppm=warn_left_ppm,
        fails_open=None if fail is None else fail == "open",
        counts="" if counts == "none" else counts,
    )
    now, was = set_metric(connection, metric, change, asked.by, new=new)
    return MetricSet(**vars(now), was=was, changed=now != was)


def _terms(done: MetricSet) -> str:
    cost = "nothing" if not done.price_micro else f"{show_credits(done.price_micro)} for {done.per_units:,}"
    said = f"{done.metric}: costs {cost}, paid by {done.payer or 'the organisation'}; phase {done.phase}; "
    said += f"{'allowed' if done.fails_open else 'blocked'} if credit is unknown"
    return said if done.changed else f"{said}; unchanged"


def _facts_of_metric(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = _latest(connection, values["metric"])
    if found is None:
        return [Fact("Metric", "does not exist yet")]
    return [
        Fact("Costs", f"{show_credits(found.price_micro)} for {found.per_units:,}"),
        Fact("Paid by", found.payer or "the organisation"),
        Fact("Phase", str(found.phase)),
        Fact("If credit is unknown", "allowed" if found.fails_open else "blocked"),
        Fact("Counts", found.counts or found.metric),
    ]


def _size_of_metric(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of a change of a metric.

    A lower price or another payer is unbounded, because it affects every later use. Any other change counts as one
    object.
    """
    found, payer = _latest(connection, values["metric"]), values["payer"]
    if payer is not None and payer != "none" and (found is None or payer != found.payer):
        return Size(unbounded=True)
    if found is None:
        return ONE
    price = found.price_micro if values["credits_micro"] is None else values["credits_micro"]
    units = values["for_"] or found.per_units
    return Size(unbounded=price * found.per_units < found.price_micro * units)


SCOPE: Final = "guard:write"
ACTIONS: Final = (
    Action(
        "guard set",
        "Set a metric",
        "Create or change a metric. To create it, pass --new. Past uses keep their price. If the metric counts "
        "billed usage, its price must be 0.",
        _set,
        _terms,
        path="/v1/metrics/{metric}",
        scope=SCOPE,
        role="admin",
        facts=_facts_of_metric,
        size=_size_of_metric,
    ),
)
