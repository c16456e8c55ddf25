"""An organisation's samples as they are stored. Reads only."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.sources.samples.quarantine import MAX_ROWS, SampleRow, row_of

SQL = queries(__file__)


def list_samples(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, most: int) -> list[SampleRow]:
    """An organisation's samples dated in [from, to), the oldest first, the withdrawn ones among them."""
    values = {"org_id": org_id, "from_ms": from_ms, "to_ms": to_ms, "at_most": min(most, MAX_ROWS)}
    return [replace(row_of(row), event_type=row.event_type) for row in SQL.run(connection, "list", values)]
