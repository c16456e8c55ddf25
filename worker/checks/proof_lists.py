"""What was proven, when, by which run of `verify`, and over how many rows. Reads only: nothing is proven here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.verify.findings import FINDINGS
from drawdown.worker.verify.invariants import INVARIANTS

SQL = queries(__file__)

WHOLE_LATE_MS: Final = 9 * DAY_MS
"""A run that looks at all of it is made once a week: one of longer ago is late."""


@dataclass(frozen=True)
class Held:
    """An invariant: the run by which it last held, and that by which it was last broken (None: none on record), when
    that was, and how many breaches it found. `rows`: how many that which held looked at, by what they are; `findings`:
    how many ways to break it are looked for."""

    invariant: int
    name: str
    says: str
    findings: int
    held_by: int | None
    held_ms: int | None
    rows: dict[str, int]
    broken_by: int | None
    broken_ms: int | None
    breaches: int

    @property
    def holds(self) -> bool | None:
        """By the newest run that says; None: no run does."""
        if self.held_by is None and self.broken_by is None:
            return None
        return (self.held_by or 0) > (self.broken_by or 0)


@dataclass(frozen=True)
class Run:
    """A run of `verify`: of how many organisations (None: all), what it found by invariant, how many rows it looked at,
    what it left open, and the newest action's hash. `doubted`: history was lost, so that it proves nothing of that.
    `follows`: the run that it continued from the window `from_ms` on (None: it looked at all of it)."""

    number: int
    at_ms: int
    took_ms: int
    orgs: int | None
    breaches: int
    by_invariant: dict[int, int]
    checked: dict[str, int]
    open: dict[str, int]
    newest_action: str
    doubted: str | None
    actor: str
    reason: str
    follows: int | None
    from_ms: int | None

    @property
    def left(self) -> dict[str, int]:
        """What it left open, without what there was none of."""
        return {name: count for name, count in self.open.items() if count}


@dataclass(frozen=True)
class RunsPage:
    """The latest first; `next_before`: where the next page begins."""

    runs: list[Run]
    next_before: int | None


@dataclass(frozen=True)
class Last:
    """When all invariants held last: by a run that looked at all of it, and by one that continued from another."""

    whole_ms: int | None
    continued_ms: int | None


def last_held(connection: sa.Connection, now_ms: int) -> Last:
    """By runs of all organisations, in a database that nobody doubts."""
    return Last(**SQL.run(connection, "last", {"now_ms": now_ms}).one()._mapping)


def standing(connection: sa.Connection) -> list[Held]:
    """Of each invariant, also of those that no run on record asked about."""
    there = {row.invariant: row for row in SQL.run(connection, "standing")}
    found = []
    for number, (name, says) in INVARIANTS.items():
        row, ways = there.get(number), sum(invariant == number for invariant, _ in FINDINGS.values())
        if row is None:
            found.append(Held(number, name, says, ways, None, None, {}, None, None, 0))
            continue
        breaches = 0 if row.by_invariant is None else int(json.loads(row.by_invariant).get(str(number), 0))
        rows = {} if row.checked is None else json.loads(row.checked)
        found.append(
            Held(number, name, says, ways, row.held_by, row.held_ms, rows, row.broken_by, row.broken_ms, breaches)
        )
    return found


def list_runs(connection: sa.Connection, *, before: int = 0, most: int = 20) -> RunsPage:
    """What runs found, the latest first."""
    rows = [_run(row._mapping) for row in SQL.run(connection, "runs", {"before": before, "at_most": most + 1})]
    return RunsPage(rows[:most], rows[most - 1].number if len(rows) > most else None)


def _run(row: sa.RowMapping) -> Run:
    by_invariant = {int(one): int(count) for one, count in json.loads(row["by_invariant"]).items()}
    decoded = {name: json.loads(row[name]) for name in ("checked", "open")}
    return Run(**{**row, "by_invariant": by_invariant, **decoded})
