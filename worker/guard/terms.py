"""What the guard counts and at which price, and what plans allow of it.

Guarantee: terms and limits are rows that are appended: the last number counts, the same again adds none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from drawdown.guard.decide import BLOCK_ALL, ONE_PPM, SILENT, Price
from drawdown.guard.periods import Period
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import DatabaseBusy, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.worker.orgs import billed_once
from drawdown.worker.sources.events import charged

SQL = queries(__file__)

ANY_PLAN: Final = "*"
"""Stands for every plan that has no limit of its own, and for who is on none."""
MAX_UNITS: Final = 10**12
"""Of one use, of a limit, and of what a price is for: nine million such uses still fit in 64 bits."""
LITTLE_PPM: Final = 200_000
"""At or below which part of a limit it is warned, unless it is said."""


@dataclass(frozen=True)
class Metric:
    """What is counted: its price, who pays in place of the organisation (None: nobody), what comes of a decision, at
    which part of a limit it is warned, whether it is allowed where credit cannot be known, and which event type or
    feature of the mapping it counts (None: what has its name)."""

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
    """What of a metric is set; None: it stays as it is. `payer` "" is the organisation itself, `counts` "" what has the
    metric's name."""

    price_micro: int | None = None
    per_units: int | None = None
    payer: str | None = None
    phase: int | None = None
    warn_ppm: int | None = None
    fails_open: bool | None = None
    counts: str | None = None


@dataclass(frozen=True)
class PlanLimit:
    """How much of a metric a plan allows in a period, in base units (None: without an end); `phase` None: the
    metric's."""

    metric: str
    plan: str
    period: Period
    amount: int | None
    phase: int | None = None


def hold(connection: sa.Connection, metric: str) -> bool:
    """Nobody else changes the metric, a limit of it, or makes or asks for an override, until this transaction is over;
    whether it is there."""
    return SQL.run(connection, "hold", {"metric": metric}).first() is not None


def find(connection: sa.Connection, metric: str, number: int | None = None) -> Metric:
    """A metric as it is, or as it was by a number. Errors: UnknownId."""
    found = _latest(connection, metric, number)
    if found is None:
        ids.require(connection, ids.METRIC, metric)
        raise UsageError(f"{metric} appeared this moment: try again")
    return found


def set_metric(
    connection: sa.Connection, metric: str, change: Change, by: By, *, new: bool = True
) -> tuple[Metric, Metric | None]:
    """Change a metric or make one; as it is now and was before. What was used keeps its price.

    Errors: UsageError for what makes no sense; UnknownId, unless `new`, and for a payer that is none; Refused for a
    price of what the seal bills, or of an event type of which usage waits (`billed_once`); DatabaseBusy.
    """
    if not is_clean_id(metric) or metric == ANY_PLAN:
        raise UsageError("a metric's name has 1 to 200 characters, none of them control characters")
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
        meter = charged.hold(connection, counts, by.now_ms)
        lock_buckets(connection)
    was = _latest(connection, metric) if hold(connection, metric) else None
    now = _changed(metric, was, change)
    if _charges_for(was, now) not in (None, counts):
        raise DatabaseBusy(f"{metric} was changed this moment; try again")
    if counts is not None:
        billed_once.require_unmetered(connection, metric, counts, by.now_ms)
        is_new = was is None or not was.price_micro or was.counts != now.counts
        if is_new and meter is not None:
            billed_once.require_nothing_waits(connection, metric, counts, meter)
    if now != was:
        now = replace(now, number=now.number + 1)
        values = {**vars(now), "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
        if SQL.run(connection, "add_metric", values).first() is None:  # somebody made it this moment
            return set_metric(connection, metric, change, by)
        details = {name: value for name, value in vars(now).items() if name != "metric"}
        record(connection, "guard_metric", metric, details, by)
    return now, was


def set_limit(connection: sa.Connection, limit: PlanLimit, by: By, *, ended: bool = False) -> bool:
    """Have a plan allow so much, or, where it is `ended`, say nothing of it any more; whether anything changed. It
    counts from now on, also in the period that goes on.

    Errors: UnknownId; UsageError for an amount or a phase that makes no sense.
    """
    find(connection, limit.metric)
    if limit.plan != ANY_PLAN:
        ids.require(connection, ids.ANY_PLAN, limit.plan)
    if limit.amount is not None and not 0 <= limit.amount <= MAX_UNITS:
        raise UsageError(f"a limit is a whole number from 0 to {MAX_UNITS:,}, or none: without an end")
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
    """What in the mapping it charges for, where that, or the price, is new; None: nothing new."""
    is_new = was is None or (was.price_micro, was.counts) != (now.price_micro, now.counts)
    return (now.counts or now.metric) if now.price_micro and is_new else None


def _require_sane(metric: Metric) -> None:
    if not 0 <= metric.price_micro <= MAX_ENTRY_MICRO or not 0 < metric.per_units <= MAX_UNITS:
        raise UsageError(f"a price is nothing or more credits, for 1 to {MAX_UNITS:,} units")
    if not 0 <= metric.warn_ppm <= ONE_PPM:
        raise UsageError("it is warned at a part of the limit: from 0 to 1")
    if metric.counts is not None and not is_clean_id(metric.counts):
        raise UsageError("what a metric counts has 1 to 200 characters, none of them control characters")
    _require_phase(metric.phase)


def _require_phase(phase: int | None) -> None:
    if phase is not None and not SILENT <= phase <= BLOCK_ALL:
        raise UsageError("a phase is 0 (silent), 1 (warn), 2 (block who never bought credit) or 3 (block all)")
