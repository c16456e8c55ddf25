"""List an organisation's allowance of each metric.

An allowance has the limits, the use, and the start of the next period. This module only reads.

Guarantee: the listed limits are the limits that the guard's decisions use (`guard.decide.in_force`). The number of SQL
statements does not depend on the number of metrics on a page. Each statement reads the organisation's rows by an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.guard.decide import Bound, Counted, Facts, Limit, Override, in_force, warned_after
from drawdown.guard.periods import PERIODS, Period, Span, end_of, starts
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.guard import lists as guard_blocks

SQL = queries(__file__)

PAGE_METRICS: Final = 50
MOST_REASONS: Final = 50
"""Pairs of a blocked metric and a reason that one result shows."""
ANY_PLAN: Final = "*"


@dataclass(frozen=True)
class StandingRow:
    """A limit of an organisation, and its use of the metric in the limit's period.

    `amount`: the limit in base units in the period (None: unlimited). `used`: the use in base units. `rule`: the rule
    that sets the limit. `resets_ms`: the time when the next period begins. `until_ms`: the end of the limit override
    (None: it does not end, or the limit is not from a limit override). `phase`: the phase that applies when the use
    reaches the limit. `low`: the remaining share of the limit is at or below the warning share. `period` None: the plan
    does not allow the metric.
    """

    metric: str
    period: Period | None
    rule: str
    amount: int | None
    used: int
    phase: int
    low: bool
    resets_ms: int | None
    until_ms: int | None

    @property
    def remaining(self) -> int | None:
        """Return the remaining base units; None if the limit is unlimited."""
        if self.period is None:
            return 0
        return None if self.amount is None else max(self.amount - self.used, 0)


@dataclass(frozen=True)
class Refusal:
    """Refused uses of one metric in the last 24 hours, for one reason.

    `enforced`: True if the uses were blocked; False if they were allowed, but phase 3 would have blocked them. `times`:
    the number of uses. `quantity`: the base units of these uses.
    """

    metric: str
    reason: str
    enforced: bool
    times: int
    quantity: int
    last_ms: int


@dataclass(frozen=True)
class Standing:
    """An organisation's allowances.

    `customer_id`: the payer. `plan`: the plan with the limits (None: without a plan). `pays`: the payer ever bought
    credit. `halted`: the code of the operator's halt or stop (None: neither). `rows`: the limits of the page's metrics,
    sorted by metric. `refusals`: their refused uses of the last 24 hours, at most MOST_REASONS rows, the most frequent
    first. `next_after`: the metric after which the next page begins (None: this is the last page).
    """

    org_id: str
    customer_id: str
    plan: str | None
    pays: bool
    halted: str | None
    rows: list[StandingRow]
    refusals: list[Refusal]
    next_after: str | None


def standing_of(connection: sa.Connection, org_id: str, now_ms: int, *, after: str = "") -> Standing:
    """Return a page of an organisation's allowances, sorted by metric.

    `after`: the metric after which the page begins. Errors: UnknownId for an unknown organisation.
    """
    ids.require(connection, ids.CUSTOMER, org_id)
    asker = SQL.run(connection, "asker", {"org_id": org_id, "now_ms": now_ms}).one()
    found = guard_blocks.metrics_from(connection, after, PAGE_METRICS + 1)
    metrics = found[:PAGE_METRICS]
    names = [str(row["metric"]) for row in metrics]
    begins = {f"{period}_ms": start for period, start in starts(now_ms).items()}
    asked = {"org_id": org_id, "metrics": names, "now_ms": now_ms, "plan": asker.plan or "", **begins}
    asked |= {"plans": _plans(asker)}
    limits = _by_metric(SQL.run(connection, "limits", asked).mappings())
    overrides = _by_metric(SQL.run(connection, "overrides", asked).mappings())
    counters = _by_metric(SQL.run(connection, "counters", asked).mappings())
    overs = {row["metric"]: row for row in SQL.run(connection, "overs", asked).mappings()}
    rows: list[StandingRow] = []
    for row in metrics:
        name = str(row["metric"])
        counted = _counted(counters.get(name, ()), overs.get(name))
        facts = Facts(int(row["phase"]), int(row["warn_ppm"]), bool(asker.pays), _limits(limits.get(name, ())), counted,
                      [Override(one["number"], one["reach"], one["period"], one["amount"])
                       for one in overrides.get(name, ())])  # fmt: skip
        until = {f"override:{one['number']}": one["ends_ms"] for one in overrides.get(name, ())}
        rows += _rows(name, facts, until, now_ms)
    since = {**asked, "since_ms": now_ms - DAY_MS, "at_most": MOST_REASONS}
    refusals = [
        Refusal(one.metric, one.reason_code, bool(one.enforced), int(one.times), int(one.quantity), int(one.last_ms))
        for one in SQL.run(connection, "denials", since)
    ]
    more = names[-1] if len(found) > len(metrics) else None
    return Standing(org_id, asker.customer_id, asker.plan, bool(asker.pays), _halted(asker), rows, refusals, more)


def plans_of(connection: sa.Connection, org_id: str, now_ms: int) -> list[str]:
    """Return the plans with limits for an organisation: its own plan, and `*`.

    For an organisation without a plan, both are `*`.
    """
    asker = SQL.run(connection, "asker", {"org_id": org_id, "now_ms": now_ms}).one()
    return _plans(asker)


def _plans(asker: sa.Row[Any]) -> list[str]:
    return [asker.plan or ANY_PLAN, ANY_PLAN]


def _halted(asker: sa.Row[Any]) -> str | None:
    if asker.stopped_at_ms is not None:
        return "stopped"
    return "halted" if asker.is_halted and asker.halt_reason == "operator" else None


def _by_metric(rows: Any) -> dict[str, list[sa.RowMapping]]:
    found: dict[str, list[sa.RowMapping]] = {}
    for row in rows:
        found.setdefault(str(row["metric"]), []).append(row)
    return found


def _limits(rows: Sequence[sa.RowMapping]) -> list[Limit]:
    """Return one limit for each period.

    A limit of the plan takes precedence over a limit of every plan (`*`).
    """
    found: dict[str, Limit] = {}
    for one in rows:
        found.setdefault(one["period"], Limit(one["period"], one["amount"], one["phase"], one["plan"]))
    return list(found.values())


def _counted(rows: Sequence[sa.RowMapping], over: sa.RowMapping | None) -> dict[Span, Counted]:
    kept = {row["period"]: row for row in rows}
    found: dict[Span, Counted] = {}
    for period in PERIODS:
        back = 0 if over is None else int(over[period])
        row = kept.get(period)
        found[period] = Counted() if row is None else Counted(int(row["used"]) - back, bool(row["warned"]))
    return found


def _rows(metric: str, facts: Facts, until: Mapping[str, int | None], now_ms: int) -> list[StandingRow]:
    bounds = in_force(facts)
    if not bounds:
        used = facts.counted["month"].used
        return [StandingRow(metric, None, "no_entitlement", 0, used, facts.phase, False, None, None)]
    return [_row(metric, facts, bound, until, now_ms) for bound in bounds]


def _row(metric: str, facts: Facts, bound: Bound, until: Mapping[str, int | None], now_ms: int) -> StandingRow:
    assert bound.period != "at_once"
    used = facts.counted[bound.period].used
    low = warned_after(facts.warn_ppm, bound.amount, used, before=False)
    resets = end_of(bound.period, now_ms)
    return StandingRow(
        metric, bound.period, bound.rule, bound.amount, used, bound.phase, low, resets, until.get(bound.rule)
    )
