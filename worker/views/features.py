"""Usage that has no feature. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class UnmappedSize:
    """Usage of one memory size that waits for a feature."""

    memory_mb: int
    seconds: int
    samples: int
    orgs: int


def unmapped_sizes(connection: sa.Connection) -> list[UnmappedSize]:
    """Sizes that have no feature, the smallest first."""
    return [UnmappedSize(*map(int, row)) for row in SQL.run(connection, "unmapped_sizes")]


def mapped_features(connection: sa.Connection) -> list[str]:
    """Features that some size makes, or made."""
    return list(SQL.run(connection, "mapped_features").scalars())


def unrated_features(connection: sa.Connection) -> list[str]:
    """Features that the embedded ledger's rate card does not know."""
    return list(SQL.run(connection, "unrated_features").scalars())
