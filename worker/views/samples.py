"""An organisation's samples as they are stored. Reads only."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.worker.sources.samples.quarantine import MAX_ROWS, SampleRow, row_of

_SAMPLES: Final = """
SELECT s.id AS sample_id, s.org_id, s.sandbox_id,
    CASE WHEN w.sample_id IS NULL THEN NULL ELSE 'withdrawn' END AS reason,
    s.ts, s.memory_mb, s.interval_s, s.ingested_at AS came_ms
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id
WHERE s.org_id = :org AND s.ts >= :from_ms AND s.ts < :to_ms AND s.problem IS NULL ORDER BY s.ts, s.id LIMIT :most
"""


def list_samples(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, most: int) -> list[SampleRow]:
    """An organisation's samples dated in [from, to), the oldest first, the withdrawn ones among them."""
    values = {"org": org_id, "from_ms": from_ms, "to_ms": to_ms, "most": min(most, MAX_ROWS)}
    return [row_of(row) for row in connection.execute(sa.text(_SAMPLES), values)]
