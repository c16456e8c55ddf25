"""What suppliers are owed: their terms, a settlement for each run, freezes, reversals, batches. A run may name one."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

KEPT = {
    "supplier_terms": "Terms of suppliers are append-only: new ones are a revision",
    "settlements": "Settlements are append-only: what changed since is a reversal",
    "settlement_reversals": "Reversals are append-only",
    "payouts": "Batches are append-only",
    "payout_lines": "Lines of batches are append-only",
}
_OF_A_FREEZE = " OR ".join(
    f"NEW.{column} <>? OLD.{column}"
    for column in ("freeze_id", "supplier", "reservation", "from_ms", "actor", "reason")
)
GUARDS = (
    *(
        Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", message)
        for table, message in KEPT.items()
        for event in ("UPDATE", "DELETE")
    ),
    Guard("settlement_freezes_kept", "settlement_freezes", "DELETE", "1 = 1", "A freeze is never deleted"),
    Guard(
        "settlement_freezes_end_once",
        "settlement_freezes",
        "UPDATE",
        f"OLD.ended_ms IS NOT NULL OR {_OF_A_FREEZE}",
        "A freeze never changes: it ends, once",
    ),
    Guard(
        "reservations_supplier_frozen",
        "reservations",
        "UPDATE",
        "NEW.supplier <>? OLD.supplier",
        "What was accepted never changes: a run keeps its supplier",
    ),
)


def upgrade() -> None:
    """Runs that were accepted before have no supplier, and none is owed anything for them."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    words = {"{id}": 'TEXT COLLATE "C"' if postgresql else "TEXT", "{serial}": "BIGSERIAL" if postgresql else "INTEGER"}
    script = Path(__file__).with_name("0021.sql").read_text(encoding="utf-8")
    for word, meaning in words.items():
        script = script.replace(word, meaning)
    for statement in script.split(";\n\n"):
        op.execute(statement.replace(":", "\\:"))
    for guard in GUARDS:
        create(guard)
    for table in (*KEPT, "settlement_freezes") if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What suppliers are owed would be forgotten."""
    raise NotImplementedError("restore a backup instead: going back would forget what suppliers are owed")
