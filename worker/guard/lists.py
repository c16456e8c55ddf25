"""List the guard's metrics, limits and uses, and compute its figures.

The figures show allowed and refused uses, and uses that a phase would block. This module only reads.

Guarantee: a page counts at most MOST_COUNTED of the newest uses and refusals of each metric, by an index. A rate states
the time from which it counts. If it counts all uses, it equals the rate of `drawdown guard list`. In the Prometheus
metrics, MOST_NAMES metrics have their own figures, and all others share one figure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.guard.decide import ONE_PPM
from drawdown.guard.periods import PERIODS, Period
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

SPANS: Final[dict[str, int]] = {"24h": DAY_MS, "7d": 7 * DAY_MS, "30d": 30 * DAY_MS}


@dataclass(frozen=True)
class SpanRate:
    """Figures of a metric in a span.

    `requests`: requested uses. `blocked`: blocked uses. `would`: uses that phase 3 would have blocked.
    `fail_open_units`: base units used while the credit was unknown. `forgone_micro`: unpaid use, in micro-credits. An
    extension of a reservation counts as requested only if it was blocked, or phase 3 would block it. Other extensions
    are not recorded.
    """

    span: str
    requests: int
    blocked: int
    would: int
    fail_open_units: int
    forgone_micro: int

    @property
    def blocked_ppm(self) -> int:
        return 0 if not self.requests else self.blocked * ONE_PPM // self.requests


@dataclass(frozen=True)
class MetricRow:
    """A metric's terms (see `terms.Metric`), and its rates in 24 hours, 7 and 30 days."""

    metric: str
    number: int
    price_micro: int
    per_units: int
    payer: str | None
    phase: int
    warn_ppm: int
    fails_open: bool
    rates: tuple[SpanRate, ...]


@dataclass(frozen=True)
class LimitRow:
    """A plan's limit of a metric in a period, in base units (None: unlimited).

    `phase`: the phase that applies when the use reaches the limit (None: the phase of the metric). `at_ms`, `actor`,
    `reason`: those of the last change.
    """

    metric: str
    plan: str
    period: Period
    amount: int | None
    phase: int | None
    at_ms: int
    actor: str
    reason: str


@dataclass(frozen=True)
class UseRow:
    """A use, in base units, micro-credits and milliseconds.

    `requested_quantity`: the quantity of the request. `decision`: the decision that counts. `would`: the decision of
    phase 3. `rule`: the rule that decided. `degraded`: the credit was unknown, or a client allowed the use without the
    server. `forgone_micro`: the part of the price that was not charged, 0 until a reserved use ends. `expires_ms`: the
    end of its reservation (None: it was not reserved).
    """

    use_key: str
    org_id: str
    metric: str
    state: str
    requested_quantity: int
    quantity: int
    decision: str
    would: str
    rule: str
    degraded: bool
    charged_micro: int
    forgone_micro: int
    at_ms: int
    expires_ms: int | None
    actor: str


@dataclass(frozen=True)
class PhaseReport:
    """The requested uses of a metric, and the uses that a phase would have blocked.

    All numbers count from `since_ms` on. `requests`: requested uses. `blocked`: uses that the phase would have blocked.
    `quantity`: the base units of the `blocked` uses. `orgs`: the number of organisations with `blocked` uses. `paying`:
    the number of these organisations that ever bought credit.
    """

    metric: str
    phase: int
    since_ms: int
    requests: int
    blocked: int
    quantity: int
    orgs: int
    paying: int


@dataclass(frozen=True)
class Drift:
    """A counter that differs from the sum of its uses.

    `counted`: the counter, in base units. `quantity`: the sum of its uses, in base units. `uses`: the number of its
    uses. If `uses` is 0, the right amount of the counter is unknown, and not assumed to be 0.
    """

    org_id: str
    metric: str
    period: Period
    start_ms: int
    counted: int
    quantity: int
    uses: int

    @property
    def has_uses(self) -> bool:
        return self.uses > 0

    def is_above(self, tolerance_ppm: int) -> bool:
        """Return True if the difference exceeds a share of the sum of the uses.

        The share is in parts per million.
        """
        return abs(self.counted - self.quantity) * ONE_PPM > self.quantity * tolerance_ppm


def list_metrics(connection: sa.Connection, now_ms: int, most: int) -> list[MetricRow]:
    """Return metrics with their terms and rates, sorted by name."""
    rows = SQL.run(connection, "metrics", {"at_most": most}).mappings().all()
    return [
        MetricRow(**{**row, "fails_open": bool(row["fails_open"])}, rates=rates_of(connection, row["metric"], now_ms))
        for row in rows
    ]


def rates_of(connection: sa.Connection, metric: str, now_ms: int) -> tuple[SpanRate, ...]:
    """Return the rates of each span, the shortest first."""
    return tuple(_rate(connection, metric, span, now_ms - length) for span, length in SPANS.items())


def list_limits(connection: sa.Connection, metric: str, most: int, *, known: bool = False) -> list[LimitRow]:
    """Return the limits in force now.

    `metric`: the metric of the limits; empty for all. `known`: the caller has checked the metric. Errors: UnknownId for
    an unknown metric.
    """
    if not known:
        _require(connection, metric, "")
    rows = SQL.run(connection, "limits", {"metric": metric, "at_most": most}).mappings()
    return [LimitRow(**row) for row in rows]


def limit_periods(connection: sa.Connection, metric: str, plans: Collection[str] = ()) -> list[Period]:
    """Return the periods in which these plans limit a metric, shortest first.

    If `plans` is empty, any plan counts.
    """
    values = {"metric": metric, "plans": list(plans) or [""], "every": int(not plans)}
    found = set(SQL.run(connection, "limit_periods", values).scalars())
    return [period for period in PERIODS if period in found]


def fits_nobody(connection: sa.Connection, pattern: str) -> bool:
    """Return True if a pattern such as `acme-*` does not match any organisation."""
    return SQL.run(connection, "fits", {"begins": pattern.removesuffix("*")}).first() is None


def list_uses(
    connection: sa.Connection, metric: str, org_id: str, now_ms: int, most: int, *, fail_open: bool = False
) -> list[UseRow]:
    """Return the uses of a metric by an organisation, newest first.

    `metric`, `org_id`: empty for all. `fail_open`: return only `degraded` uses (see `UseRow`).

    A reserved use past its end is shown as `expired` with the quantity 0, as the guard counts it. Errors: UnknownId.
    """
    _require(connection, metric, org_id)
    values = {"metric": metric, "org_id": org_id, "fail_open": int(fail_open), "now_ms": now_ms, "at_most": most}
    rows = SQL.run(connection, "uses", values).mappings()
    return [UseRow(**{**row, "degraded": bool(row["degraded"])}) for row in rows]


def report(connection: sa.Connection, metric: str, phase: int, since_ms: int) -> PhaseReport:
    """Return a report about uses that a phase would have blocked since a moment.

    Errors: UnknownId.
    """
    _require(connection, metric, "")
    values = {"metric": metric, "phase": phase, "since_ms": since_ms}
    row = SQL.run(connection, "would_block", values).one()
    asked = _rate(connection, metric, "", since_ms).requests
    blocked = int(row.times), int(row.quantity), int(row.orgs), int(row.paying)
    return PhaseReport(metric, phase, since_ms, asked, *blocked)


def drifts(connection: sa.Connection, since_ms: int, most: int) -> list[Drift]:
    """Return the counters that differ from the sum of their uses.

    The counters are those of periods that begin at `since_ms` or later.
    """
    return [_drift(row) for row in SQL.run(connection, "drift", {"since_ms": since_ms, "at_most": most}).mappings()]


def put_right(connection: sa.Connection, actor: str, reason: str, since_ms: int, most: int) -> list[Drift]:
    """Return the counters that an actor corrected, as they were before.

    Only corrections with this reason, made at `since_ms` or later, count. The newest correction comes first.
    """
    values = {"actor": actor, "reason": reason, "since_ms": since_ms, "at_most": most}
    return [_drift(row) for row in SQL.run(connection, "put_right", values).mappings()]


def _drift(row: Mapping[Any, Any]) -> Drift:
    whole = ("start_ms", "counted", "quantity", "uses")
    return Drift(**{**row, **{name: int(row[name]) for name in whole}})


def _rate(connection: sa.Connection, metric: str, span: str, since_ms: int) -> SpanRate:
    values = {"metric": metric, "since_ms": since_ms}
    allowed = SQL.run(connection, "allowed_since", values).one()
    denied = SQL.run(connection, "denied_since", values).one()
    asked = int(allowed.passes) + int(denied.would)
    return SpanRate(
        span, asked, int(denied.blocked), int(denied.would), int(allowed.fail_open_units), int(allowed.forgone_micro)
    )


def _require(connection: sa.Connection, metric: str, org_id: str) -> None:
    if metric:
        ids.require(connection, ids.METRIC, metric)
    if org_id:
        ids.require(connection, ids.CUSTOMER, org_id)


MOST_COUNTED: Final = 5_000
"""Newest uses of one metric that a page counts.

Minutes of refusals have the same limit.
"""
PAGE_METRICS: Final = 20
MOST_BLOCKED: Final = 20
"""Pairs of an organisation and a metric that a page names as most blocked."""
_NAMES: Final = dict(zip(SPANS, ("day", "week", "month"), strict=True))


@dataclass(frozen=True)
class BlockRate:
    """The rate of blocks of a metric since a moment.

    `requests`: requested uses. `blocked`: blocked uses. `would`: uses that phase 3 would block. An extension of a
    reservation counts only if it was blocked, or phase 3 would block it. `whole`: True if all uses of the span are
    counted; False if only the newest are counted.
    """

    span: str
    since_ms: int
    whole: bool
    requests: int
    blocked: int
    would: int

    @property
    def blocked_ppm(self) -> int | None:
        """Return the number of blocked uses per million requested uses.

        Without a requested use, return None, because the rate is unknown.
        """
        return None if not self.requests else self.blocked * ONE_PPM // self.requests


@dataclass(frozen=True)
class MetricBlocks:
    """A metric's terms (see `terms.Metric`), and its rates in 24 hours, 7 and 30 days.

    `free_would`: the number of uses that phase 2 would have blocked in 7 days. `orgs`: the number of organisations with
    uses that phase 3 would have blocked in 7 days. `paying`: the number of these organisations that ever bought credit.
    """

    metric: str
    price_micro: int
    per_units: int
    payer: str | None
    phase: int
    fails_open: bool
    rates: tuple[BlockRate, ...]
    free_would: int
    orgs: int
    paying: int

    def would_in(self, phase: int) -> int:
        """Return the number of uses that a phase from 0 to 3 would have blocked in 7 days."""
        week = self.rates[1].would
        return (0, 0, self.free_would, week)[phase]


@dataclass(frozen=True)
class Blocked:
    """An organisation with uses that a phase blocked, or that phase 3 would block.

    `blocked`: the number of blocked uses. `would`: the number of uses that phase 3 would have blocked. `pays`: the
    organisation ever bought credit.
    """

    org_id: str
    metric: str
    blocked: int
    would: int
    last_ms: int
    pays: bool


@dataclass(frozen=True)
class BlocksPage:
    """A page of metrics, sorted by name.

    `most_blocked`: the organisations that these metrics blocked most. `next_after`: the metric after which the next
    page begins (None: this is the last page).
    """

    metrics: list[MetricBlocks]
    most_blocked: list[Blocked]
    next_after: str | None


def block_rates(
    connection: sa.Connection, now_ms: int, *, metric: str = "", span: str = "7d", after: str = ""
) -> BlocksPage:
    """Return a page of metrics, or one metric.

    The page also has the organisations that these metrics blocked most in `span`, a key of `SPANS`.

    Errors: UnknownId.
    """
    found = metrics_from(connection, after, PAGE_METRICS + 1, metric)
    if metric and not found:
        ids.require(connection, ids.METRIC, metric)
    rows = found[:PAGE_METRICS]
    since = {name: now_ms - length for name, length in SPANS.items()}
    floors = _floors(connection, [str(row["metric"]) for row in rows], since["30d"])
    begins = {f"{_NAMES[name]}_ms": ms for name, ms in since.items()}
    values = {"floors": [{"metric": name, "since_ms": ms} for name, ms in floors.items()], **begins}
    uses = {row.metric: row._mapping for row in SQL.run(connection, "newest_uses", values)}
    denials = {row.metric: row._mapping for row in SQL.run(connection, "newest_denials", values)}
    metrics = []
    for row in rows:
        name = str(row["metric"])
        rates = _rates(since, floors[name], uses.get(name), denials.get(name))
        free, orgs, paying = (
            int(denials[name][key]) if name in denials else 0 for key in ("free_would", "orgs", "paying")
        )
        terms = (int(row["price_micro"]), int(row["per_units"]), row["payer"], int(row["phase"]))
        metrics.append(MetricBlocks(name, *terms, bool(row["fails_open"]), rates, free, orgs, paying))
    most = _most_blocked(connection, {name: max(ms, since[span]) for name, ms in floors.items()})
    return BlocksPage(metrics, most, metrics[-1].metric if len(found) > len(rows) else None)


def metrics_from(connection: sa.Connection, after: str, most: int, metric: str = "") -> Sequence[sa.RowMapping]:
    """Return the newest terms of metrics, sorted by name.

    `after`: the name after which the list begins. `metric`: if not empty, return only that metric.
    """
    values = {"metric": metric, "after": after, "at_most": most}
    return SQL.run(connection, "blocked_metrics", values).mappings().all()


def _floors(connection: sa.Connection, metrics: Sequence[str], since_ms: int) -> dict[str, int]:
    """Return the time from which each metric is counted, in milliseconds."""
    values = {"metrics": [{"metric": name} for name in metrics], "since_ms": since_ms, "counted": MOST_COUNTED}
    return {
        row.metric: max(since_ms, row.use_ms or 0, row.minute_ms or 0) for row in SQL.run(connection, "floors", values)
    }


def _rates(
    since: dict[str, int], floor_ms: int, uses: sa.RowMapping | None, denials: sa.RowMapping | None
) -> tuple[BlockRate, ...]:
    found = []
    for span, begin_ms in since.items():
        name = _NAMES[span]
        passes = 0 if uses is None else int(uses[name])
        blocked, would = (0, 0) if denials is None else (int(denials[name]), int(denials[f"{name}_would"]))
        found.append(BlockRate(span, max(begin_ms, floor_ms), floor_ms <= begin_ms, passes + would, blocked, would))
    return tuple(found)


def _most_blocked(connection: sa.Connection, floors: dict[str, int]) -> list[Blocked]:
    values = {"floors": [{"metric": name, "since_ms": ms} for name, ms in floors.items()], "at_most": MOST_BLOCKED}
    return [
        Blocked(row.org_id, row.metric, int(row.blocked), int(row.would), int(row.last_ms), bool(row.pays))
        for row in SQL.run(connection, "most_blocked", values)
    ]


MOST_NAMES: Final = 50
"""Metrics of the guard that have their own figures in the Prometheus metrics."""
OTHER: Final = "other"


@dataclass(frozen=True)
class GuardFigures:
    """Figures of the guard since a moment, for the Prometheus metrics.

    `denied`: refusals by metric and whether they were enforced. `fail_open`: uses allowed while the credit was unknown,
    as their number and base units, by metric. `waiting`: limit overrides that wait for a decision, since
    `waiting_since_ms` (None: `waiting` is 0). `ending`: limit overrides that end soon.
    """

    denied: dict[tuple[str, bool], int]
    fail_open: dict[str, tuple[int, int]]
    waiting: int
    waiting_since_ms: int | None
    ending: int


def guard_figures(
    connection: sa.Connection, now_ms: int, denied_since_ms: int, fail_open_since_ms: int, ending_by_ms: int
) -> GuardFigures:
    """Return the guard's figures.

    The result includes each metric that has its own figure, even if the figure is 0.
    """
    named = list(SQL.run(connection, "names").scalars())
    kept = set(named[:MOST_NAMES])
    shown = [*named[:MOST_NAMES], *([OTHER] if len(named) > MOST_NAMES else [])]
    denied: dict[tuple[str, bool], int] = {(name, enforced): 0 for name in shown for enforced in (False, True)}
    for row in SQL.run(connection, "denied", {"since_ms": denied_since_ms}):
        denied[row.metric if row.metric in kept else OTHER, bool(row.enforced)] += int(row.times)
    fail_open: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0), dict.fromkeys(shown, (0, 0)))
    for row in SQL.run(connection, "fail_open_uses", {"since_ms": fail_open_since_ms}):
        name = row.metric if row.metric in kept else OTHER
        fail_open[name] = fail_open[name][0] + int(row.uses), fail_open[name][1] + int(row.units)
    return GuardFigures(denied, dict(fail_open), *open_overrides(connection, now_ms, ending_by_ms))


def open_overrides(
    connection: sa.Connection, now_ms: int, ending_by_ms: int, metric: str = ""
) -> tuple[int, int | None, int]:
    """Return figures about limit overrides that wait for a decision or end soon.

    The figures are the number that wait for a decision, the time of the oldest such request in milliseconds (None: the
    number is 0), and the number that end by `ending_by_ms`. `metric`: if not empty, count only limit overrides of that
    metric.
    """
    values = {"now_ms": now_ms, "before_ms": ending_by_ms, "metric": metric}
    asked = SQL.run(connection, "overrides", values).one()
    since = None if asked.since_ms is None else int(asked.since_ms)
    return int(asked.waiting), since, int(asked.ending)
