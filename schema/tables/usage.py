"""The tables of usage.

They store samples as hosts wrote them, quarantined samples, events, batches, watched folders and backfills. A batch is
an accepted file. A backfill waits until a person closes it.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Serial, id_column, metadata, ms_column, said_columns, sample_columns

usage_samples = sa.Table(
    "usage_samples",
    metadata,
    # SQLite: INTEGER PRIMARY KEY AUTOINCREMENT, because SQLite would reuse a plain rowid after a delete (S2).
    # PostgreSQL: the id of the inserting transaction. There, the table's primary key is the column `id`.
    # SQL files that are written by hand define both.
    sa.Column("arrival", Big, nullable=False),
    *sample_columns(),
    sa.Column("ingested_at", Big, nullable=True),
    sa.Column("problem", sa.Text, nullable=True),
    comment="Usage as observed. Any program may insert rows. Rows never change (S7). `problem`: why the sample is in "
    "quarantine.",
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
    comment="Samples declared wrong. Each row subtracts its whole sample from the owed usage.",
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
    comment="A sample that repeats an id with different content (S7). The content is stored here and never billed.",
)

quarantine_closed = sa.Table(
    "quarantine_closed",
    metadata,
    id_column("sample_id", key=True),
    id_column("new_id", null=True),
    ms_column("at_ms"),
    *said_columns(),
    comment="Quarantined samples that a person closed. `new_id`: the corrected sample (NULL: it is never billed).",
)

late_quarantine = sa.Table(
    "late_quarantine",
    metadata,
    id_column("sample_id", key=True),
    id_column("org_id"),
    ms_column("found_ms"),
    comment="Samples that arrived too late to be billed, below their organisation's floor (S4).",
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
    ms_column("freed_ms", null=True),
    sa.UniqueConstraint("meter", name="event_types_meter"),
    sa.CheckConstraint("meter BETWEEN 16777217 AND 17777216", name="event_types_meters"),
    comment="Types of usage events. `meter`: the number that replaces the memory size of a sandbox sample. `org_id`: "
    "the organisation with the key that added the type. `key_name`: that key, if it is not an organisation's. "
    "`source`: the source of that key. `freed_ms`: the time from which the type is unused and does not count towards a "
    "bound (NULL: in use). No other column changes.",
)
sa.Index(
    "event_types_in_use",
    event_types.c.event_type,
    sqlite_where=sa.text("freed_ms IS NULL"),
    postgresql_where=sa.text("freed_ms IS NULL"),
)

event_values = sa.Table(
    "event_values",
    metadata,
    id_column("event_type", key=True),
    sa.Column("aggregation", sa.Text, nullable=False),
    sa.Column("path", sa.Text),
    sa.Column("scale", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(
        "(aggregation = 'count' AND path IS NULL AND scale = 1) OR (aggregation = 'sum' AND path IS NOT NULL "
        "AND scale BETWEEN 1 AND 1000000000)",
        name="event_values_rule",
    ),
    comment="The quantity of an event that does not state a quantity, by event type. It is 1, or the value at `path` "
    "in the event's data times `scale`. Declared permanently before the type's first event. Append-only.",
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
    comment="The contents of usage events. An event is billed by its sample, and deleted with the sample. Rows never "
    "change (S7).",
)


_STANDS = sa.text("withdrawn_ms IS NULL")
batches = sa.Table(
    "batches",
    metadata,
    id_column("batch", key=True),
    id_column("source"),
    id_column("name"),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("row_count", Big, nullable=False),
    sa.Column("refused", Big, nullable=False),
    sa.Column("samples", Big, nullable=False),
    sa.Column("total", Big, nullable=False),
    ms_column("from_ms", null=True),
    ms_column("to_ms", null=True),
    ms_column("taken_ms"),
    ms_column("withdrawn_ms", null=True),
    *said_columns(),
    id_column("rows_hash", null=True),
    sa.Column("row_labels", sa.Text),
    sa.Column("rows_kept", sa.Text),
    sa.Column("field_map", sa.Text),
    sa.Index("batches_by_rows", "rows_hash"),
    sa.Index("batches_by_name", "source", "name", unique=True, sqlite_where=_STANDS, postgresql_where=_STANDS),
    sa.Index("batches_by_taken", "taken_ms", "batch"),
    sa.Index("batches_by_time", "to_ms", sqlite_where=_STANDS, postgresql_where=_STANDS),
    comment="Files of usage, each accepted once. `batch`: hash of the content. Its sums are samples with ids that "
    "begin with the hash. `total`: the seconds or units of these samples. `rows_hash`: hash of its rows, in any file "
    "format. `rows_kept`: hashes of the rows. `field_map`: columns of its fields, if they differ from the fields' "
    "names.",
)

batch_refused_rows = sa.Table(
    "batch_refused_rows",
    metadata,
    id_column("batch", key=True),
    sa.Column("number", Big, primary_key=True, autoincrement=False),
    sa.Column("wrong_column", sa.Text, nullable=False),
    sa.Column("said", sa.Text, nullable=False),
    comment="The first rows of a batch that its sums do not include. `number`: the row's number in the file.",
)

batch_files = sa.Table(
    "batch_files",
    metadata,
    id_column("source", key=True),
    id_column("name", key=True),
    id_column("batch", key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("size_bytes", Big, nullable=False),
    sa.Column("modified_ns", Big, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("said", sa.Text, nullable=False),
    ms_column("seen_ms"),
    sa.Column("readings", Big, nullable=False),
    sa.Column("shared_rows", Big),
    ms_column("accepted_ms", null=True),
    sa.CheckConstraint(
        "outcome IN ('taken', 'repeated', 'conflict', 'refused', 'reading', 'failed', 'gone')",
        name="batch_files_outcome",
    ),
    sa.Index("batch_files_by_seen", "seen_ms"),
    comment="Files as Drawdown received them. `outcome`: also shows a repeated content or name. A file of a watched "
    "folder that is being read, failed or was refused does not have a batch. `readings`: readings that began and did "
    "not end. `shared_rows`: rows that are also in other batches, for a file in conflict. A person must accept such a "
    "file before Drawdown uses it.",
)

batch_sources = sa.Table(
    "batch_sources",
    metadata,
    id_column("source", key=True),
    sa.Column("folder", sa.Text, nullable=False),
    ms_column("at_ms"),
    ms_column("paused_ms", null=True),
    *said_columns(),
    sa.Column("query", sa.Text),
    sa.Column("asked_of", sa.Text),
    sa.Column("period_ms", Big),
    sa.Column("closes_after_ms", Big),
    ms_column("next_ms", null=True),
    sa.Column("field_map", sa.Text),
    comment="Folders from which a tick takes files, and queries. A tick runs a query at another database for each "
    "closed period, from `next_ms` on. `field_map`: columns of the files for its fields.",
)


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
    comment="Past events of one organisation. The events are staged while the backfill is open, become usage when it "
    "is closed, and are withdrawn when it is reverted. `diff_hash`: hash of the difference shown before it was closed.",
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
    comment="The staged events of an open backfill, or the events of a closed backfill that became usage.",
)
