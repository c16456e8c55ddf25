"""What the guard counts, what it allowed and refused, and what a phase would block. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
class Rate:
    """Of a span: how often it was asked to use a metric, what of that was blocked, and what phase 3 would have blocked;
    what was used without knowing the credit, in base units, and without its being paid, in micro-credits. An
    extension of a hold counts as asked where it was blocked, or would be: of others nothing is on record."""

    span: str
    asked: int
    blocked: int
    would: int
    dark: int
    forgone_micro: int

    @property
    def blocked_ppm(self) -> int:
        return 0 if not self.asked else self.blocked * ONE_PPM // self.asked


@dataclass(frozen=True)
class MetricRow:
    """A metric's terms, and its rates of 24 hours, 7 and 30 days."""

    metric: str
    number: int
    price_micro: int
    per_units: int
    payer: str | None
    phase: int
    warn_ppm: int
    fails_open: bool
    rates: tuple[Rate, ...]


@dataclass(frozen=True)
class LimitRow:
    """How much of a metric a plan allows in a period, in base units; None: without an end, and the metric's phase."""

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
    """A use, in base units, micro-credits and milliseconds."""

    use_key: str
    org_id: str
    metric: str
    state: str
    asked: int
    amount: int
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
    """What a phase would have blocked of a metric since a moment: how often, how many base units, of how many
    organisations, and how many of those ever bought credit; beside how often it was asked."""

    metric: str
    phase: int
    since_ms: int
    asked: int
    blocked: int
    amount: int
    orgs: int
    paying: int


@dataclass(frozen=True)
class Drift:
    """A counter that is not the sum of its uses. `known`: there are uses; where there are none, nobody knows what it
    should be, and it is not taken for nothing."""

    org_id: str
    metric: str
    period: Period
    start_ms: int
    counted: int
    amount: int
    uses: int

    @property
    def known(self) -> bool:
        return self.uses > 0

    def is_above(self, tolerance_ppm: int) -> bool:
        """Whether it is off by more than a part of what it should be."""
        return abs(self.counted - self.amount) * ONE_PPM > self.amount * tolerance_ppm


def list_metrics(connection: sa.Connection, now_ms: int, most: int) -> list[MetricRow]:
    """By their names."""
    rows = SQL.run(connection, "metrics", {"at_most": most}).mappings().all()
    return [
        MetricRow(**{**row, "fails_open": bool(row["fails_open"])}, rates=rates_of(connection, row["metric"], now_ms))
        for row in rows
    ]


def rates_of(connection: sa.Connection, metric: str, now_ms: int) -> tuple[Rate, ...]:
    """Of each span, the shortest first."""
    return tuple(_rate(connection, metric, span, now_ms - length) for span, length in SPANS.items())


def list_limits(connection: sa.Connection, metric: str, most: int, *, known: bool = False) -> list[LimitRow]:
    """Those that count now, of one metric where it is given. Errors: UnknownId, but for one that is `known`."""
    if not known:
        _require(connection, metric, "")
    rows = SQL.run(connection, "limits", {"metric": metric, "at_most": most}).mappings()
    return [LimitRow(**row) for row in rows]


def limit_periods(connection: sa.Connection, metric: str, plans: Collection[str] = ()) -> list[Period]:
    """In which periods, the shortest first, these plans limit a metric; where none is named, any of all there are."""
    values = {"metric": metric, "plans": list(plans) or [""], "every": int(not plans)}
    found = set(SQL.run(connection, "limit_periods", values).scalars())
    return [period for period in PERIODS if period in found]


def fits_nobody(connection: sa.Connection, pattern: str) -> bool:
    """Whether no organisation there is begins as a pattern such as `acme-*` says."""
    return SQL.run(connection, "fits", {"begins": pattern.removesuffix("*")}).first() is None


def list_uses(
    connection: sa.Connection, metric: str, org_id: str, now_ms: int, most: int, *, dark: bool = False
) -> list[UseRow]:
    """The latest first; of those let through without an answer alone, where `dark` is asked for. What is held and over
    is `expired`, and its amount nothing, as it counts. Errors: UnknownId."""
    _require(connection, metric, org_id)
    values = {"metric": metric, "org_id": org_id, "dark": int(dark), "now_ms": now_ms, "at_most": most}
    rows = SQL.run(connection, "uses", values).mappings()
    return [UseRow(**{**row, "degraded": bool(row["degraded"])}) for row in rows]


def report(connection: sa.Connection, metric: str, phase: int, since_ms: int) -> PhaseReport:
    """Before a phase is set: what it would have blocked. Errors: UnknownId."""
    _require(connection, metric, "")
    values = {"metric": metric, "phase": phase, "since_ms": since_ms}
    row = SQL.run(connection, "would_block", values).one()
    asked = _rate(connection, metric, "", since_ms).asked
    return PhaseReport(metric, phase, since_ms, asked, int(row.times), int(row.amount), int(row.orgs), int(row.paying))


def drifts(connection: sa.Connection, since_ms: int, most: int) -> list[Drift]:
    """Of periods that begin at a moment or later."""
    return [_drift(row) for row in SQL.run(connection, "drift", {"since_ms": since_ms, "at_most": most}).mappings()]


def put_right(connection: sa.Connection, actor: str, reason: str, since_ms: int, most: int) -> list[Drift]:
    """What one actor put right for one reason, at a moment or later: as it was then. The newest."""
    values = {"actor": actor, "reason": reason, "since_ms": since_ms, "at_most": most}
    return [_drift(row) for row in SQL.run(connection, "put_right", values).mappings()]


def _drift(row: Mapping[Any, Any]) -> Drift:
    whole = ("start_ms", "counted", "amount", "uses")
    return Drift(**{**row, **{name: int(row[name]) for name in whole}})


def _rate(connection: sa.Connection, metric: str, span: str, since_ms: int) -> Rate:
    values = {"metric": metric, "since_ms": since_ms}
    allowed = SQL.run(connection, "allowed_since", values).one()
    denied = SQL.run(connection, "denied_since", values).one()
    asked = int(allowed.passes) + int(denied.would)
    return Rate(span, asked, int(denied.blocked), int(denied.would), int(allowed.dark), int(allowed.forgone_micro))


def _require(connection: sa.Connection, metric: str, org_id: str) -> None:
    if metric:
        ids.require(connection, ids.METRIC, metric)
    if org_id:
        ids.require(connection, ids.CUSTOMER, org_id)
