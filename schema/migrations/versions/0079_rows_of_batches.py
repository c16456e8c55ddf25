"""Rows of batches are known by their content, and a file that shares some with another waits for a person."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0079"
down_revision = "0078"
branch_labels = None
depends_on = None

FROZEN = Guard(
    "batches_rows_frozen",
    "batches",
    "UPDATE",
    "NEW.rows_hash <>? OLD.rows_hash OR NEW.row_labels <>? OLD.row_labels OR NEW.rows_kept <>? OLD.rows_kept",
    "S7: the rows of a batch never change",
)


def upgrade() -> None:
    """Adds columns and two indexes. Of batches that were taken before, no row is known."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    order = ' COLLATE "C"' if postgresql else ""
    op.execute(f"ALTER TABLE batches ADD COLUMN rows_hash TEXT{order}")
    op.execute("ALTER TABLE batches ADD COLUMN row_labels TEXT")
    op.execute("ALTER TABLE batches ADD COLUMN rows_kept TEXT")
    op.execute("ALTER TABLE batch_files ADD COLUMN shared_rows BIGINT")
    op.execute("ALTER TABLE batch_files ADD COLUMN accepted_ms BIGINT")
    op.execute("CREATE INDEX batches_by_rows ON batches (rows_hash)")
    op.execute("CREATE INDEX batches_by_time ON batches (to_ms) WHERE withdrawn_ms IS NULL")
    create(FROZEN)


def downgrade() -> None:
    """A file of the same rows is billed again."""
    drop(FROZEN.name, FROZEN.table)
    op.execute("DROP INDEX batches_by_time")
    op.execute("DROP INDEX batches_by_rows")
    for column in ("accepted_ms", "shared_rows"):
        op.execute(f"ALTER TABLE batch_files DROP COLUMN {column}")
    for column in ("rows_kept", "row_labels", "rows_hash"):
        op.execute(f"ALTER TABLE batches DROP COLUMN {column}")
