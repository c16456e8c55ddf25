"""Pools allot credit to their members, and a run may be paid for by another one's wallet: pools, who may charge whom,
and of lots and runs which it was."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

KEPT = {
    "pools": "Pools are append-only",
    "payers": "Who may charge whom is append-only: the next row ends it",
}
GUARDS = (
    *(
        Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", message)
        for table, message in KEPT.items()
        for event in ("UPDATE", "DELETE")
    ),
    Guard(
        "reservations_payer_frozen",
        "reservations",
        "UPDATE",
        "NEW.payer_number <>? OLD.payer_number",
        "What was accepted never changes: a run keeps its payer",
    ),
)


def upgrade() -> None:
    """Lots that were given before are of no pool, and each run is paid for by its organisation's own wallet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    script = Path(__file__).with_name("0030.sql").read_text(encoding="utf-8")
    for statement in script.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement.replace(":", "\\:"))
    for guard in GUARDS:
        create(guard)
    for table in KEPT if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What pools allotted would come back to nobody."""
    raise NotImplementedError("restore a backup instead: going back would forget whose credit it is")
