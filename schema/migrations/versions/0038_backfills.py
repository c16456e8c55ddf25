"""Backfills: events of the past are staged, shown, and put in as usage by a person's word."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

OPEN = "EXISTS (SELECT 1 FROM backfills b WHERE b.backfill = {row}.backfill AND b.state = 'open')"
GUARDS = (
    Guard("backfills_no_delete", "backfills", "DELETE", "1 = 1", "A backfill stays on record"),
    Guard(
        "backfills_forward",
        "backfills",
        "UPDATE",
        "NEW.backfill <> OLD.backfill OR NEW.org_id <> OLD.org_id OR NEW.from_ms <> OLD.from_ms "
        "OR NEW.to_ms <> OLD.to_ms OR OLD.state = 'reverted' OR NEW.state = 'open' "
        "OR (OLD.state = 'closed' AND NEW.diff_hash <>? OLD.diff_hash)",
        "A backfill is closed or reverted once, as what it is",
    ),
    Guard("backfill_events_frozen", "backfill_events", "UPDATE", "1 = 1", "S7: events never change; stage another"),
    Guard(
        "backfill_events_staged",
        "backfill_events",
        "INSERT",
        "NOT " + OPEN.format(row="NEW"),
        "Events are staged while their backfill is open",
    ),
    Guard(
        "backfill_events_kept",
        "backfill_events",
        "DELETE",
        "NOT " + OPEN.format(row="OLD"),
        "What went in by a backfill stays on record",
    ),
)
KEPT = ("backfills", "backfill_events")


def upgrade() -> None:
    """Nothing is staged yet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0038.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    for table in KEPT if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """Only while there is none: else what a backfill put in could be reverted by nobody."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM backfills").scalar():
        raise NotImplementedError("restore a backup instead: going back would forget what backfills put in")
    for guard in GUARDS:
        drop(guard.name, guard.table)
    for table in reversed(KEPT):
        op.execute(f"DROP TABLE {table}")
