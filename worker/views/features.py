"""What is used, but has no feature. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

_UNMAPPED = """
SELECT memory_mb, SUM(seconds), SUM(samples), COUNT(DISTINCT org_id) FROM pending_usage
WHERE reason = 'no_mapping' GROUP BY memory_mb ORDER BY memory_mb
"""


@dataclass(frozen=True)
class UnmappedSize:
    """Usage of one memory size that waits for a feature."""

    memory_mb: int
    seconds: int
    samples: int
    orgs: int


def unmapped_sizes(connection: sa.Connection) -> list[UnmappedSize]:
    """Sizes that have no feature, the smallest first."""
    return [UnmappedSize(*map(int, row)) for row in connection.execute(sa.text(_UNMAPPED))]


def mapped_features(connection: sa.Connection) -> list[str]:
    """Features that some size makes, or made."""
    query = "SELECT DISTINCT feature FROM mappings WHERE feature IS NOT NULL ORDER BY 1"
    return list(connection.execute(sa.text(query)).scalars())


def unrated_features(connection: sa.Connection) -> list[str]:
    """Features that the embedded ledger's rate card does not know."""
    query = (
        "SELECT DISTINCT m.feature FROM mappings m WHERE m.feature IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM ledger_rates r WHERE r.feature = m.feature) ORDER BY 1"
    )
    return list(connection.execute(sa.text(query)).scalars())
