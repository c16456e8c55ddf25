"""How often the guard blocked, by metric, and whom: for a page that is looked at again and again. Reads only.

Guarantee: of each metric so many of the newest uses and refusals are counted, however many there are, by an index; a
rate says since when it is. Where all are counted, the figures are those of `drawdown guard list`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.guard.decide import ONE_PPM
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.worker.guard.lists import SPANS

SQL = queries(__file__)

MOST_COUNTED: Final = 5_000
"""Uses, and as many refusals, of one metric that are counted: the newest."""
PAGE_METRICS: Final = 20
MOST_BLOCKED: Final = 20
"""Organisations that were blocked most, by metric."""
_NAMES: Final = dict(zip(SPANS, ("day", "week", "month"), strict=True))


@dataclass(frozen=True)
class BlockRate:
    """How often it was asked to use a metric since a moment, how often that was blocked, and would be in phase 3 (of
    extensions of holds those alone count). `whole`: the moment is the span's begin; else there are more, and these are
    the newest."""

    span: str
    since_ms: int
    whole: bool
    asked: int
    blocked: int
    would: int

    @property
    def blocked_ppm(self) -> int | None:
        """None where nothing was asked: a rate of nothing is unknown."""
        return None if not self.asked else self.blocked * ONE_PPM // self.asked


@dataclass(frozen=True)
class MetricBlocks:
    """A metric's terms; its rates of 24 hours, 7 and 30 days; and what phases 2 and 3 would have blocked in the 7 days,
    of how many organisations, and how many of those ever bought credit."""

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
        """How often a phase would have blocked in 7 days."""
        week = self.rates[1].would
        return (0, 0, self.free_would, week)[phase]


@dataclass(frozen=True)
class Blocked:
    """An organisation that was blocked of a metric, or would be in phase 3."""

    org_id: str
    metric: str
    blocked: int
    would: int
    last_ms: int
    pays: bool


@dataclass(frozen=True)
class BlocksPage:
    """By the metrics' names; `next_after`: where the next page begins. `most_blocked`: of the metrics of this page."""

    metrics: list[MetricBlocks]
    most_blocked: list[Blocked]
    next_after: str | None


def block_rates(
    connection: sa.Connection, now_ms: int, *, metric: str = "", span: str = "7d", after: str = ""
) -> BlocksPage:
    """A page of metrics, or one; whom they blocked most in a span. Errors: UnknownId."""
    found = metrics_from(connection, after, PAGE_METRICS + 1, metric)
    if metric and not found:
        ids.require(connection, ids.METRIC, metric)
    rows = found[:PAGE_METRICS]
    since = {name: now_ms - length for name, length in SPANS.items()}
    floors = _floors(connection, [str(row["metric"]) for row in rows], since["30d"])
    begins = {f"{_NAMES[name]}_ms": ms for name, ms in since.items()}
    values = {"floors": [{"metric": name, "since_ms": ms} for name, ms in floors.items()], **begins}
    uses = {row.metric: row._mapping for row in SQL.run(connection, "uses", values)}
    denials = {row.metric: row._mapping for row in SQL.run(connection, "denials", values)}
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
    """The newest terms of those that come after a name, by their names; of one, where it is given."""
    values = {"metric": metric, "after": after, "at_most": most}
    return SQL.run(connection, "metrics", values).mappings().all()


def _floors(connection: sa.Connection, metrics: Sequence[str], since_ms: int) -> dict[str, int]:
    """Since when each is counted."""
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
