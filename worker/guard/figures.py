"""The figures of the guard behind the metrics. Reads only, by indexes.

Guarantee: whatever people name, so many metrics have a figure of their own; all others are one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_NAMES: Final = 50
"""Metrics of the guard that have figures of their own."""
OTHER: Final = "other"


@dataclass(frozen=True)
class GuardFigures:
    """Since a moment: how often each metric was denied, by whether it was enforced; and what was let through without
    knowing the credit, as uses and base units. Overrides that wait for a decision, since when, and that end soon."""

    denied: dict[tuple[str, bool], int]
    dark: dict[str, tuple[int, int]]
    waiting: int
    waiting_since_ms: int | None
    ending: int


def guard_figures(
    connection: sa.Connection, now_ms: int, denied_since_ms: int, dark_since_ms: int, ending_by_ms: int
) -> GuardFigures:
    """Zeros included, of what has a name."""
    named = list(SQL.run(connection, "names").scalars())
    kept = set(named[:MOST_NAMES])
    shown = [*named[:MOST_NAMES], *([OTHER] if len(named) > MOST_NAMES else [])]
    denied: dict[tuple[str, bool], int] = {(name, enforced): 0 for name in shown for enforced in (False, True)}
    for row in SQL.run(connection, "denied", {"since_ms": denied_since_ms}):
        denied[row.metric if row.metric in kept else OTHER, bool(row.enforced)] += int(row.times)
    dark: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0), dict.fromkeys(shown, (0, 0)))
    for row in SQL.run(connection, "dark", {"since_ms": dark_since_ms}):
        name = row.metric if row.metric in kept else OTHER
        dark[name] = dark[name][0] + int(row.uses), dark[name][1] + int(row.units)
    return GuardFigures(denied, dict(dark), *open_overrides(connection, now_ms, ending_by_ms))


def open_overrides(
    connection: sa.Connection, now_ms: int, ending_by_ms: int, metric: str = ""
) -> tuple[int, int | None, int]:
    """How many wait for a decision, since when (None: none does), and how many end by a moment: of all, or of one
    metric."""
    values = {"now_ms": now_ms, "before_ms": ending_by_ms, "metric": metric}
    asked = SQL.run(connection, "overrides", values).one()
    since = None if asked.since_ms is None else int(asked.since_ms)
    return int(asked.waiting), since, int(asked.ending)
