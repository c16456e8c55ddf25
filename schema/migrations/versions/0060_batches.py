"""Batches: files of usage, added up as they arrive."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0060"
down_revision = "0059"
branch_labels = None
depends_on = None

GUARDS = (
    Guard("batches_no_delete", "batches", "DELETE", "1 = 1", "A batch stays on record"),
    Guard(
        "batches_forward",
        "batches",
        "UPDATE",
        "OLD.withdrawn_ms IS NOT NULL OR NEW.batch <> OLD.batch OR NEW.source <> OLD.source OR NEW.name <> OLD.name "
        "OR NEW.samples <> OLD.samples OR NEW.total <> OLD.total OR NEW.from_ms <>? OLD.from_ms "
        "OR NEW.to_ms <>? OLD.to_ms OR NEW.row_count <> OLD.row_count OR NEW.refused <> OLD.refused "
        "OR NEW.taken_ms <> OLD.taken_ms OR NEW.path <> OLD.path",
        "S7: a batch never changes, and is withdrawn once",
    ),
    Guard("batch_refused_rows_frozen", "batch_refused_rows", "UPDATE", "1 = 1", "What a file said never changes"),
    Guard("batch_refused_rows_no_delete", "batch_refused_rows", "DELETE", "1 = 1", "What was refused stays on record"),
)
TABLES = ("batches", "batch_refused_rows", "batch_files", "batch_sources")
KEPT = TABLES[:2]


def upgrade() -> None:
    """Nothing was taken yet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0060.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    for table in KEPT if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """Only while there is none: else what a file put in could be withdrawn by nobody."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM batches").scalar():
        raise NotImplementedError("restore a backup instead: going back would forget what was taken")
    for guard in GUARDS:
        drop(guard.name, guard.table)
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
