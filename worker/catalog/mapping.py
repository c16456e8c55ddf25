"""The mapping: the feature of each memory size, and of each event type by its meter, in each window (rule S5).

Pure, but for `mapping_rows` and `read_in_use`, which read.

Guarantee: a window uses the mapping in force at its start, for good. `rewrites` finds any size and window with a
feature that a new row would change, so that a change which reaches back can only fill holes.

A size is looked up in this order: an exact row for that size, the smallest "up to" tier that holds it, the open top.
Rows with the same selector (kind and size) follow one another in time. The row started last is in force, and a row
without a feature ends it. A meter is above all sizes, and has exact rows alone: no tier and no open top holds it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries
from drawdown.schema.units import MAX_MEMORY_MB, WINDOW_MS

SQL = queries(__file__)

FOREVER_MS: Final = 1 << 52
SECONDS: Final = "s"
MB_SECONDS: Final = "mb_s"
UNITS: Final = "units"
"""The unit of event types, and of nothing else."""


MOST_MAPPINGS: Final = 8
"""A process keeps the segments of so many mappings: each tick and each guard asks for them, and they seldom change."""


@dataclass(frozen=True)
class MappingRow:
    """One row of `mappings`. `memory_mb` None: the open top. `feature` None: the selector ends."""

    kind: str
    memory_mb: int | None
    feature: str | None
    unit: str
    start_ms: int

    @property
    def is_of_events(self) -> bool:
        """True if an event type makes the feature; `memory_mb` is its meter."""
        return is_meter(self.memory_mb)

    @property
    def selector(self) -> tuple[str, int | None]:
        return (self.kind, self.memory_mb)


@dataclass(frozen=True)
class Segment:
    """Sizes lo..hi (inclusive) make `feature` in windows that start in [start_ms, end_ms)."""

    lo: int
    hi: int
    start_ms: int
    end_ms: int
    feature: str
    unit: str


def is_meter(memory_mb: int | None) -> bool:
    """Return True if a number stands for an event type, and not for a memory size."""
    return memory_mb is not None and memory_mb > MAX_MEMORY_MB


def mapping_rows(connection: sa.Connection) -> list[MappingRow]:
    """The whole mapping, in the order it was added."""
    return mapping_of(SQL.run(connection, "mapping_rows"))


def mapping_part() -> Part:
    """Return the query of the mapping's rows, to read beside others in one statement: rows for `mapping_of`."""
    return SQL.part("mapping_rows")


def mapping_of(rows: Iterable[Any]) -> list[MappingRow]:
    """The mapping of rows that were read."""
    return [MappingRow(row.kind, row.memory_mb, row.feature, row.unit, row.start_ms) for row in rows]


def resolve(rows: Iterable[MappingRow], memory_mb: int, window_ms: int) -> MappingRow | None:
    """The row in force for one size in one window; None where the size has no feature."""
    in_force: dict[tuple[str, int | None], MappingRow] = {}
    for row in rows:  # in the order they were added: of two with one start, the later one counts
        before = in_force.get(row.selector)
        if row.start_ms <= window_ms and (before is None or row.start_ms >= before.start_ms):
            in_force[row.selector] = row
    live = {selector: row for selector, row in in_force.items() if row.feature is not None}
    exact = live.get(("exact", memory_mb))
    if exact is not None or is_meter(memory_mb):
        return exact
    tiers = sorted(size for kind, size in live if kind == "up_to" and size is not None and size >= memory_mb)
    return live.get(("up_to", tiers[0] if tiers else None))


def making(rows: Iterable[MappingRow], feature: str, from_ms: int) -> list[MappingRow]:
    """Return the rows that make a feature in some window from `from_ms` on, by selector and begin.

    They are in force there, or begin later. A row that another row replaced before is not included.
    """
    by_selector: dict[tuple[str, int | None], dict[int, MappingRow]] = {}
    for row in rows:  # of two with one start, the later one counts
        by_selector.setdefault(row.selector, {})[row.start_ms] = row
    found: list[MappingRow] = []
    for mine in by_selector.values():
        begun = max((start for start in mine if start <= from_ms), default=from_ms)
        found += [mine[start] for start in sorted(mine) if start >= begun and mine[start].feature == feature]
    return found


def _size_edges(rows: Iterable[MappingRow]) -> list[int]:
    """Where the answer may change with the size: each edge begins a range of sizes that are all answered alike."""
    edges = {0, MAX_MEMORY_MB + 1}
    for row in rows:
        if row.memory_mb is not None:
            edges.add(row.memory_mb + 1)
            if row.kind == "exact":
                edges.add(row.memory_mb)
    return sorted(edges)


def segments(rows: Sequence[MappingRow]) -> list[Segment]:
    """The mapping as rectangles of sizes and windows that do not overlap: what the seal joins; meters' come last."""
    of_sizes = _segments(tuple(row for row in rows if not row.is_of_events))
    by_meter: dict[int, list[MappingRow]] = {}
    for row in rows:  # each apart: there may be thousands, and no row of one says anything of another
        if row.memory_mb is not None and row.is_of_events:
            by_meter.setdefault(row.memory_mb, []).append(row)
    return [*of_sizes, *(found for _, mine in sorted(by_meter.items()) for found in _of_meter(mine))]


def _of_meter(rows: list[MappingRow]) -> list[Segment]:
    """The segments of one meter."""
    last = {row.start_ms: row for row in rows}  # of two with one start, the later one counts
    starts = sorted(last)
    found: list[Segment] = []
    for start, end in pairwise([*starts, FOREVER_MS]):
        row = last[start]
        if row.feature is None or row.memory_mb is None:
            continue
        if found and (found[-1].end_ms, found[-1].feature) == (start, row.feature):
            found[-1] = replace(found[-1], end_ms=end)
        else:
            found.append(Segment(row.memory_mb, row.memory_mb, start, end, row.feature, row.unit))
    return found


@lru_cache(maxsize=MOST_MAPPINGS)
def _segments(rows: tuple[MappingRow, ...]) -> Sequence[Segment]:
    times = sorted({row.start_ms for row in rows})
    sizes = _size_edges(rows) if rows else []
    found: list[Segment] = []
    for lo, after in pairwise(sizes):
        for start, end in pairwise([*times, FOREVER_MS]):
            row = resolve(rows, lo, start)
            if row is None or row.feature is None:
                continue
            last = found[-1] if found else None
            alike = last and (last.lo, last.end_ms, last.feature, last.unit) == (lo, start, row.feature, row.unit)
            if last is not None and alike:
                found[-1] = Segment(lo, last.hi, last.start_ms, end, last.feature, last.unit)
            else:
                found.append(Segment(lo, after - 1, start, end, row.feature, row.unit))
    return found


def akin(rows: Iterable[MappingRow], new: MappingRow) -> list[MappingRow]:
    """The rows that can say something of what a new row is about: those of its meter, or of all sizes."""
    if new.is_of_events:
        return [row for row in rows if row.memory_mb == new.memory_mb]
    return [row for row in rows if not row.is_of_events]


def rewrites(rows: Sequence[MappingRow], new: MappingRow, sealed_to_ms: int) -> tuple[int, int, str] | None:
    """Return the first (size, window, feature) below `sealed_to_ms` that the new row would change.

    None if it changes no feature there, or only gives a feature to usage that had none.
    """
    rows = akin(rows, new)
    after = [*rows, new]
    times = {new.start_ms, *(row.start_ms for row in rows if new.start_ms <= row.start_ms < sealed_to_ms)}
    sizes = [new.memory_mb] if new.memory_mb is not None and new.is_of_events else _size_edges(after)[:-1]
    for size in sizes:
        for window in sorted(time for time in times if time < sealed_to_ms):
            was, becomes = resolve(rows, size, window), resolve(after, size, window)
            if was is None or was.feature is None:
                continue
            if becomes is None or (becomes.feature, becomes.unit) != (was.feature, was.unit):
                return size, window, was.feature
    return None


def other_unit(rows: Sequence[MappingRow], new: MappingRow) -> MappingRow | None:
    """Return a row that makes the new row's feature in another unit, at any time; None if there is none.

    A row that the new row replaces before it began is ignored, and so are rows that were replaced this way.
    """
    if new.feature is None:
        return None
    lasting = {(row.selector, row.start_ms): row for row in [*rows, new]}
    return next((row for row in lasting.values() if row.feature == new.feature and row.unit != new.unit), None)


def read_in_use(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> dict[str, frozenset[str]]:
    """By organisation, features of its sandboxes that run and of samples of this window and the last."""
    if not org_ids:
        return {}
    window_ms = now_ms - now_ms % WINDOW_MS
    values = {
        "orgs": [{"org_id": org_id} for org_id in org_ids],
        "segments": [asdict(one) for one in segments(mapping_rows(connection))],
        "window_ms": window_ms,
        "from_ms": window_ms - WINDOW_MS,
    }
    found = defaultdict[str, set[str]](set)
    for row in SQL.run(connection, "in_use", values):
        found[row.org_id].add(row.feature)
    return {org_id: frozenset(features) for org_id, features in found.items()}
