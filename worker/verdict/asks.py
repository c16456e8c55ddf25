"""Marks organisations whose provider is asked again."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


def mark_for_projection(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Have the provider asked again about these organisations. The count of asks grows each time, so that a
    projection answers only those asks that came before its read."""
    orgs = [{"org_id": org_id} for org_id in sorted(set(org_ids))]
    SQL.run(connection, "mark_for_projection", {"now_ms": now_ms, "orgs": orgs})
