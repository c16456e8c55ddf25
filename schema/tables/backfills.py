"""Backfills: usage events of the past that wait for a person's word."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

_OPEN = sa.text("state = 'open'")
backfills = sa.Table(
    "backfills",
    metadata,
    id_column("backfill", key=True),
    id_column("org_id"),
    ms_column("from_ms"),
    ms_column("to_ms"),
    sa.Column("state", sa.Text, nullable=False),
    ms_column("at_ms"),
    ms_column("closed_ms", null=True),
    ms_column("reverted_ms", null=True),
    sa.Column("diff_hash", sa.Text, nullable=True),
    *said_columns(),
    sa.CheckConstraint("state IN ('open', 'closed', 'reverted')", name="backfills_state"),
    sa.CheckConstraint("from_ms % 300000 = 0 AND to_ms % 300000 = 0 AND from_ms < to_ms", name="backfills_range"),
    sa.CheckConstraint(
        "(closed_ms IS NULL) = (diff_hash IS NULL) AND (state <> 'closed' OR closed_ms IS NOT NULL) "
        "AND (state <> 'open' OR closed_ms IS NULL) AND (state = 'reverted') = (reverted_ms IS NOT NULL)",
        name="backfills_moments",
    ),
    sa.Index("backfills_one_open", "org_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    comment="Events of the past, of one organisation: staged while open, usage once closed, withdrawn once reverted. "
    "diff_hash: of what was shown before it was closed.",
)

backfill_events = sa.Table(
    "backfill_events",
    metadata,
    id_column("backfill", key=True),
    id_column("sample_id", key=True),
    id_column("source"),
    id_column("event_id"),
    id_column("event_type"),
    sa.Column("quantity", Big, nullable=False),
    ms_column("ts"),
    id_column("subject", null=True),
    id_column("project", null=True),
    id_column("plan_key", null=True),
    sa.Column("properties", sa.Text, nullable=False),
    comment="What a backfill holds: what was staged; once it is closed, what went in by it.",
)
