"""Batches: files of usage that were taken, what of them was refused, and the folders that are watched."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

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
    sa.Index("batches_by_rows", "rows_hash"),
    sa.Index("batches_by_name", "source", "name", unique=True, sqlite_where=_STANDS, postgresql_where=_STANDS),
    sa.Index("batches_by_taken", "taken_ms", "batch"),
    sa.Index("batches_by_time", "to_ms", sqlite_where=_STANDS, postgresql_where=_STANDS),
    comment="Files of usage, each taken once, known by the hash of its content. Its sums are samples, whose ids "
    "begin with it; `total`: their seconds or units. `rows_hash`: of its rows in whatever "
    "file; `rows_kept`: hashes of them.",
)

batch_refused_rows = sa.Table(
    "batch_refused_rows",
    metadata,
    id_column("batch", key=True),
    sa.Column("number", Big, primary_key=True, autoincrement=False),
    sa.Column("wrong_column", sa.Text, nullable=False),
    sa.Column("said", sa.Text, nullable=False),
    comment="Rows of a batch that are in no sum: the first of them, by their numbers in the file.",
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
    comment="Files as they came: one whose content was taken before, or that has another file's name, is said here. "
    "One of a watched folder that is being read, failed or was refused has no batch; `readings` began and did not end. "
    "One in conflict because `shared_rows` of its rows are in other batches is taken once a person accepted it.",
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
    comment="Folders whose files a tick takes; and queries, which a tick asks of another database for each period that "
    "is closed, from `next_ms` on.",
)
