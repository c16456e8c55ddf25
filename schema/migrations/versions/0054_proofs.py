"""What verify found is kept, and usage events are found by when they came in."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0054"
down_revision = "0052"
branch_labels = None
depends_on = None

GUARDS = tuple(
    Guard(f"proofs_no_{event.lower()}", "proofs", event, "1 = 1", "A run of verify stays on record as it was")
    for event in ("UPDATE", "DELETE")
)


def upgrade() -> None:
    """Nothing was proven yet that is on record: the next run of verify is the first."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    serial = "BIGSERIAL" if postgresql else "INTEGER"
    text = Path(__file__).with_name("0054.sql").read_text(encoding="utf-8")
    for statement in text.replace("{serial}", serial).split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    if postgresql:
        op.execute("CREATE TRIGGER proofs_never_truncated BEFORE TRUNCATE ON proofs EXECUTE FUNCTION never_truncated()")


def downgrade() -> None:
    """What was proven is forgotten, but for what the audit has of the actions."""
    op.execute("DROP INDEX usage_events_by_ingested")
    for guard in GUARDS:
        drop(guard.name, guard.table)
    op.execute("DROP TABLE invariants")
    op.execute("DROP TABLE proofs")
