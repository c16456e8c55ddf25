"""The mapping from memory sizes and meters to features, by window (rule S5).

A meter is the number of an event type.

This module is pure, except `mapping_rows` and `read_in_use`, which read.

Guarantee: a window always uses the mapping in force at its start. `rewrites` finds any size and window for which a new
row would change the feature. So a change of past windows can only add missing features.

A size is looked up in this order: an exact row for that size, the smallest "up to" tier that includes it, the open top.
If several rows have the same selector (kind and size), the row with the latest start at or before the window is in
force. If starts are equal, the row added last counts. A row without a feature ends the selector. A meter is above all
sizes, and has only exact rows. Tiers and the open top do not include meters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
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
"""The unit that only event types have."""


MOST_MAPPINGS: Final = 8
"""Most mappings for which a process caches the segments.

Each tick and each guard needs the segments, and mappings seldom change.
"""


@dataclass(frozen=True)
class MappingRow:
    """A row of `mappings`.

    `memory_mb` None: the open top. `feature` None: the selector ends. `at_ms`: when the row was added, in milliseconds.
    Rows that differ only in this time are equal.
    """

    kind: str
    memory_mb: int | None
    feature: str | None
    unit: str
    start_ms: int
    at_ms: int = field(default=0, compare=False)

    @property
    def is_of_events(self) -> bool:
        """Return True if the row is for an event type.

        The `memory_mb` of such a row holds a meter.
        """
        return is_meter(self.memory_mb)

    @property
    def selector(self) -> tuple[str, int | None]:
        return (self.kind, self.memory_mb)


@dataclass(frozen=True)
class Segment:
    """A part of the mapping, for a range of sizes and of windows.

    Sizes `lo` to `hi` have `feature`, in `unit`, in windows that start in [start_ms, end_ms).
    """

    lo: int
    hi: int
    start_ms: int
    end_ms: int
    feature: str
    unit: str


def is_meter(memory_mb: int | None) -> bool:
    """Return True if a number is the meter of an event type, and not a memory size."""
    return memory_mb is not None and memory_mb > MAX_MEMORY_MB


def mapping_rows(connection: sa.Connection) -> list[MappingRow]:
    """Return the whole mapping, in the order in which the rows were added."""
    return mapping_of(SQL.run(connection, "mapping_rows"))


def mapping_part() -> Part:
    """Return the query of the mapping: rows for `mapping_of`.

    One statement can run this query together with others.
    """
    return SQL.part("mapping_rows")


def mapping_of(rows: Iterable[Any]) -> list[MappingRow]:
    """Return the mapping from the rows of `mapping_part`."""
    return [MappingRow(row.kind, row.memory_mb, row.feature, row.unit, row.start_ms, row.at_ms) for row in rows]


def resolve(rows: Iterable[MappingRow], memory_mb: int, window_ms: int) -> MappingRow | None:
    """Return the row in force for a size in a window.

    None: the size does not have a feature.
    """
    in_force: dict[tuple[str, int | None], MappingRow] = {}
    for row in rows:  # in the order in which they were added; if two have the same start, the later row counts
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
    """Return the rows with a feature that are in force at `from_ms` or later.

    The rows are grouped by selector, and sorted by start. A row that another row replaced before `from_ms` is not
    included.
    """
    by_selector: dict[tuple[str, int | None], dict[int, MappingRow]] = {}
    for row in rows:  # if two have the same start, the later row counts
        by_selector.setdefault(row.selector, {})[row.start_ms] = row
    found: list[MappingRow] = []
    for mine in by_selector.values():
        begun = max((start for start in mine if start <= from_ms), default=from_ms)
        found += [mine[start] for start in sorted(mine) if start >= begun and mine[start].feature == feature]
    return found


def _size_edges(rows: Iterable[MappingRow]) -> list[int]:
    """Return the sizes at which the feature may change.

    Each of these sizes begins a range of sizes with the same rows.
    """
    edges = {0, MAX_MEMORY_MB + 1}
    for row in rows:
        if row.memory_mb is not None:
            edges.add(row.memory_mb + 1)
            if row.kind == "exact":
                edges.add(row.memory_mb)
    return sorted(edges)


def segments(rows: Sequence[MappingRow]) -> list[Segment]:
    """Return the mapping as segments of sizes and windows that do not overlap.

    Segments of meters come last. The seal joins samples to these segments.
    """
    of_sizes = _segments(tuple(row for row in rows if not row.is_of_events))
    by_meter: dict[int, list[MappingRow]] = {}
    for row in rows:  # group by meter, because thousands of meters may have independent rows
        if row.memory_mb is not None and row.is_of_events:
            by_meter.setdefault(row.memory_mb, []).append(row)
    return [*of_sizes, *(found for _, mine in sorted(by_meter.items()) for found in _of_meter(mine))]


def _of_meter(rows: list[MappingRow]) -> list[Segment]:
    """Return the segments of one meter."""
    last = {row.start_ms: row for row in rows}  # if two have the same start, the later row counts
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
    """Return the rows that can affect the usage of a new row.

    For a meter, these are the rows of the same meter. For a memory size, they are the rows of all sizes.
    """
    if new.is_of_events:
        return [row for row in rows if row.memory_mb == new.memory_mb]
    return [row for row in rows if not row.is_of_events]


def rewrites(rows: Sequence[MappingRow], new: MappingRow, sealed_to_ms: int) -> tuple[int, int, str] | None:
    """Return a sealed window in which a new row would change the feature or its unit.

    The result is (size, window, present feature). Sealed windows are below `sealed_to_ms`.

    None: the row does not change an existing feature in these windows, although it may add a missing feature.
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
    """Return a row that has the new row's feature in another unit, at any time.

    None: such a row does not exist. A row is ignored if a later row with the same selector and start replaces it.
    """
    if new.feature is None:
        return None
    lasting = {(row.selector, row.start_ms): row for row in [*rows, new]}
    return next((row for row in lasting.values() if row.feature == new.feature and row.unit != new.unit), None)


def read_in_use(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> dict[str, frozenset[str]]:
    """Return the features that organisations use now, by organisation.

    These are the features of running sandboxes, and of samples in the current and the previous window.
    """
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
