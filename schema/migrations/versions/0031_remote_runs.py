"""Runs of organisations whose balance a provider keeps: where a run's hold lies, what it used, and the samples that
bill it."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

KEPT = ("run_usage", "run_samples")
GUARDS = (
    *(
        Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", "What a run used is append-only")
        for table in KEPT
        for event in ("UPDATE", "DELETE")
    ),
    Guard(
        "reservations_hold_frozen",
        "reservations",
        "UPDATE",
        "NEW.hold <>? OLD.hold",
        "What was accepted never changes: a hold stays where it lies",
    ),
)


def upgrade() -> None:
    """What was accepted before is held in wallets, all of it."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0031.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    for table in KEPT if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """Only while no such run was ever accepted: else what runs were billed for would be forgotten."""
    runs = "SELECT COUNT(*) FROM reservations WHERE hold <> 'wallet'"
    if op.get_bind().exec_driver_sql(runs).scalar():
        raise NotImplementedError("restore a backup instead: going back would forget what runs were billed for")
    for guard in GUARDS:
        drop(guard.name, guard.table)
    for table in reversed(KEPT):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP INDEX reservations_held_by_org")
    op.execute("ALTER TABLE reservations DROP COLUMN hold")
