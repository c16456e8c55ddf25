"""Files that end the tick that reads them, and what became of a file by its path."""

from alembic import op

revision = "0064"
down_revision = "0061"
branch_labels = None
depends_on = None

COLUMNS = "source, name, batch, path, size_bytes, modified_ns, outcome, said, seen_ms"
OUTCOMES = ("taken", "repeated", "conflict", "refused")


def upgrade() -> None:
    """A file of a folder lies there under its name; one that a person named is where its batch was first taken from."""
    path = (
        "COALESCE((SELECT s.folder || '/' || f.name FROM batch_sources s WHERE s.source = f.source), "
        "(SELECT b.path FROM batches b WHERE b.batch = f.batch), '')"
    )
    readings = ", readings BIGINT NOT NULL"
    _anew("path TEXT NOT NULL,", ", path", (*OUTCOMES, "reading", "failed", "gone"), readings)
    op.execute(
        f"INSERT INTO batch_files ({COLUMNS}, readings) SELECT source, name, batch, {path}, size_bytes, modified_ns, "
        "outcome, said, seen_ms, 0 FROM batch_files_old f"
    )
    op.execute("DROP TABLE batch_files_old")
    op.execute("CREATE INDEX batch_files_by_seen ON batch_files (seen_ms)")


def downgrade() -> None:
    """Of what came by several paths the one that was seen last is kept; what no batch came of is looked at again."""
    _anew("", "", OUTCOMES, "")
    kept = COLUMNS.replace(" path,", "")
    op.execute(
        f"INSERT INTO batch_files ({kept}) SELECT {kept} FROM batch_files_old f WHERE outcome IN {OUTCOMES} "
        "AND NOT EXISTS (SELECT 1 FROM batch_files_old n WHERE n.source = f.source AND n.name = f.name "
        f"AND n.batch = f.batch AND n.outcome IN {OUTCOMES} AND (n.seen_ms > f.seen_ms "
        "OR (n.seen_ms = f.seen_ms AND n.path > f.path)))"
    )
    op.execute("DROP TABLE batch_files_old")
    op.execute("CREATE INDEX batch_files_by_seen ON batch_files (seen_ms)")


def _anew(path: str, in_key: str, outcomes: tuple[str, ...], readings: str) -> None:
    """Another key needs another table on SQLite."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    id_ = 'TEXT COLLATE "C"' if postgresql else "TEXT"
    op.execute("DROP INDEX batch_files_by_seen")
    op.execute("ALTER TABLE batch_files RENAME TO batch_files_old")
    if postgresql:
        op.execute("ALTER TABLE batch_files_old DROP CONSTRAINT batch_files_pkey")
        op.execute("ALTER TABLE batch_files_old DROP CONSTRAINT batch_files_outcome")
    op.execute(
        f"CREATE TABLE batch_files (source {id_} NOT NULL, name {id_} NOT NULL, batch {id_} NOT NULL, {path} "
        "size_bytes BIGINT NOT NULL, modified_ns BIGINT NOT NULL, outcome TEXT NOT NULL, said TEXT NOT NULL, "
        f"seen_ms BIGINT NOT NULL{readings}, PRIMARY KEY (source, name, batch{in_key}), "
        f"CONSTRAINT batch_files_outcome CHECK (outcome IN {outcomes}))"
    )
