"""Return the usage that a person is about to withdraw.

The result has the worth of the usage, its organisations, and its times. Reads only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.declare import Fact, Size
from drawdown.schema.sql import queries
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.catalog.mapping import MB_SECONDS, MappingRow, is_meter, mapping_rows, resolve
from drawdown.worker.verdict.rates import Prices, Quantity, Worth, size_of

SQL = queries(__file__)

MOST_NAMED: Final = 5
"""Organisations that a dry run names. The dry run counts the others."""


@dataclass(frozen=True)
class Affected:
    """Samples in force above the floors of their organisations.

    `orgs`: the number of organisations. `first`: the names of up to MOST_NAMED of them. `from_ms`, `to_ms`: the times
    of the first and the last sample (None: without samples).
    """

    samples: int
    orgs: int
    first: tuple[str, ...]
    from_ms: int | None
    to_ms: int | None
    worth: Worth

    def facts(self) -> list[Fact]:
        """Return the facts that a dry run shows."""
        more = self.orgs - len(self.first)
        named = ", ".join(self.first) + (f" and {more:,} more" if more else "")
        return [
            Fact("Worth", str(self.worth)),
            Fact("Organisations", f"{self.orgs:,}: {named}" if self.orgs else "none"),
            Fact("Samples", f"{self.samples:,}"),
            Fact("From", show_time(self.from_ms) or "-"),
            Fact("Until", show_time(self.to_ms) or "-"),
        ]

    def size(self, rows: int) -> Size:
        """Return the size of an action that withdraws the usage.

        `rows`: the number of rows that the action changes.
        """
        return size_of(self.worth, rows)


def of_batch(connection: sa.Connection, first_id: str, beyond_id: str) -> Affected:
    """Return the samples in force with ids between two ids, excluding both."""
    return _affected(connection, "between_ids", {"first_id": first_id, "beyond_id": beyond_id})


def of_backfill(connection: sa.Connection, backfill: str) -> Affected:
    """Return the samples in force that a backfill added."""
    return _affected(connection, "of_that", {"backfill": backfill})


def of_samples(connection: sa.Connection, sample_ids: Sequence[str]) -> Affected:
    """Return the samples with these ids that are in force."""
    return _affected(connection, "these_samples", {"samples": [{"sample_id": one} for one in sample_ids]})


def _affected(connection: sa.Connection, chosen: str, values: dict[str, object]) -> Affected:
    span = SQL.run(connection, "span", values, chosen=chosen).one()
    names = SQL.run(connection, "whose", {**values, "at_most": MOST_NAMED}, chosen=chosen).scalars()
    rows = SQL.run(connection, "used_sizes", values, chosen=chosen).all()
    first = tuple(str(name) for name in names)
    return Affected(int(span.samples), int(span.orgs), first, span.from_ms, span.to_ms, _worth(connection, rows))


def _worth(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> Worth:
    """Return the worth of usage, by the mapping in force in each window."""
    of_meters: dict[int, list[MappingRow]] = defaultdict(list)
    of_sizes: list[MappingRow] = []
    for rule in mapping_rows(connection):
        if rule.memory_mb is not None and rule.is_of_events:
            of_meters[rule.memory_mb].append(rule)
        else:
            of_sizes.append(rule)

    @cache
    def resolve_feature(memory_mb: int, window_ms: int) -> MappingRow | None:
        return resolve(of_meters.get(memory_mb, []) if is_meter(memory_mb) else of_sizes, memory_mb, window_ms)

    used = []
    for row in rows:
        by = resolve_feature(int(row.memory_mb), int(row.window_ms))
        if by is not None and by.feature is not None:
            units = int(row.seconds) * (int(row.memory_mb) if by.unit == MB_SECONDS else 1)
            used.append(Quantity(row.provider, by.feature, int(row.window_ms), units))
    return Prices(connection).worth(used)
