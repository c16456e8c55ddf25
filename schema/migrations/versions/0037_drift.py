"""What cells count of the same usage, and what vendors bill for it, stands beside ours."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

KEPT = ("vendor_units", "vendor_imports", "vendor_bills")
GUARDS = [
    Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", "What vendors cost and billed is append-only")
    for table in KEPT
    for event in ("UPDATE", "DELETE")
]


def upgrade() -> None:
    """New tables without rows: nothing was compared yet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    script = Path(__file__).with_name("0037.sql").read_text(encoding="utf-8")
    for statement in script.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    for table in KEPT if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What was compared and imported is forgotten; nothing is billed by it."""
    for table in ("parity_checks", *KEPT):
        op.execute(f"DROP TABLE {table}")
    if op.get_bind().dialect.name == "postgresql":
        for guard in GUARDS:
            op.execute(f"DROP FUNCTION {guard.name}()")
