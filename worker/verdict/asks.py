"""Whose provider is asked again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema.sql import rows_sql


def mark_for_projection(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Have the provider asked again about these organisations. The count of asks grows each time, so that a
    projection answers only those asks that came before its read."""
    shape = rows_sql(connection, {"org_id": "text"})
    connection.execute(
        sa.text(
            "UPDATE orgs SET projection_due_ms = :now, projection_asks = projection_asks + 1 "
            f"WHERE org_id IN (SELECT org_id FROM ({shape}) r)"
        ),
        {"now": now_ms, "rows": json.dumps([{"org_id": org} for org in sorted(set(org_ids))])},
    )
