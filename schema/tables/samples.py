"""Usage: samples as hosts wrote them, and the treatment of those that were wrong."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Exact, Id, Serial, id_column, metadata, ms_column, said_columns

usage_samples = sa.Table(
    "usage_samples",
    metadata,
    # SQLite: INTEGER PRIMARY KEY AUTOINCREMENT, a plain rowid would be used again after a delete (S2).
    # PostgreSQL: the inserting transaction's id; the primary key there is `id`. The migration says both.
    sa.Column("arrival", Big, nullable=False),
    sa.Column("id", Id, primary_key=True),
    id_column("org_id", null=True),
    id_column("sandbox_id", null=True),
    id_column("cell_id", null=True),
    sa.Column("memory_mb", Big, nullable=True),
    sa.Column("cpu_count", sa.Numeric, nullable=True),
    sa.Column("interval_s", Exact, nullable=True),
    sa.Column("ts", Big, nullable=True),
    sa.Column("ingested_at", Big, nullable=True),
    sa.Column("problem", sa.Text, nullable=True),
    comment="Usage as observed. Any program may insert; rows never change (S7). `problem` is the quarantine's reason.",
)

withdrawals = sa.Table(
    "withdrawals",
    metadata,
    id_column("sample_id", key=True),
    id_column("org_id"),
    ms_column("ts"),
    sa.Column("memory_mb", Big, nullable=False),
    sa.Column("interval_s", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.Index("withdrawals_by_org_ts", "org_id", "ts"),
    sa.Index("withdrawals_by_ts", "ts"),
    comment="Samples declared wrong; each takes its whole sample out of what is owed.",
)

sample_conflicts = sa.Table(
    "sample_conflicts",
    metadata,
    sa.Column("conflict_id", Serial, primary_key=True),
    id_column("sample_id"),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    ms_column("seen_ms"),
    sa.UniqueConstraint("sample_id", "content", name="sample_conflicts_once"),
    comment="The same sample id seen again with other content (S7): kept here, billed never.",
)

quarantine_closed = sa.Table(
    "quarantine_closed",
    metadata,
    id_column("sample_id", key=True),
    id_column("new_id", null=True),
    ms_column("at_ms"),
    *said_columns(),
    comment="Quarantined samples that a person dealt with: entered again, rightly, as `new_id`; or NULL: never to be "
    "billed.",
)

late_quarantine = sa.Table(
    "late_quarantine",
    metadata,
    id_column("sample_id", key=True),
    id_column("org_id"),
    ms_column("found_ms"),
    comment="Samples that arrived below their organisation's floor (S4): too late for good.",
)

event_types = sa.Table(
    "event_types",
    metadata,
    id_column("event_type", key=True),
    sa.Column("meter", Big, nullable=False),
    ms_column("first_seen_ms"),
    id_column("org_id", null=True),
    id_column("key_name", null=True),
    id_column("source", null=True),
    sa.UniqueConstraint("meter", name="event_types_meter"),
    sa.CheckConstraint("meter BETWEEN 16777217 AND 16787216", name="event_types_meters"),
    comment="Kinds of usage events; the meter stands where a sample of a sandbox has its memory size. org_id: "
    "whose own key brought it; key_name: the key of no organisation that did; source: the one of "
    "this key. Append-only.",
)

usage_events = sa.Table(
    "usage_events",
    metadata,
    id_column("sample_id", key=True),
    id_column("source"),
    id_column("event_id"),
    id_column("event_type"),
    id_column("org_id"),
    sa.Column("quantity", Big, nullable=False),
    ms_column("ts"),
    id_column("subject", null=True),
    id_column("project", null=True),
    id_column("plan_key", null=True),
    sa.Column("properties", sa.Text, nullable=False),
    ms_column("ingested_ms"),
    sa.CheckConstraint("quantity BETWEEN 0 AND 1000000000000", name="usage_events_quantity"),
    sa.Index("usage_events_key", "source", "event_id", "org_id", unique=True),
    sa.Index("usage_events_by_ingested", "ingested_ms", "sample_id"),
    comment="What usage events said; each is billed by its sample, and goes with it. Rows never change (S7).",
)
