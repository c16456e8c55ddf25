"""Credit is reserved before it is used: runs and their holds. Accounts are wallets alone: a row that all customers'
charges changed made each of them wait for the others; what was earned and granted is a sum of entries."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_FROZEN = " OR ".join(
    f"NEW.{column} <>? OLD.{column}"
    for column in (
        "reservation", "org_id", "customer_id", "project", "subject", "action", "estimate", "overage", "accepted_ms",
        "fingerprint", "actor", "reason",
    )
)  # fmt: skip
ACCOUNTS_KEPT = Guard("ledger_accounts_kept", "ledger_accounts", "DELETE", "1 = 1", "A ledger account is never deleted")
ENTRIES = tuple(
    Guard(f"ledger_entries_no_{event.lower()}", "ledger_entries", event, "1 = 1", "ledger_entries is append-only")
    for event in ("UPDATE", "DELETE")
)
RESERVATIONS = (
    Guard("reservations_kept", "reservations", "DELETE", "1 = 1", "A reservation is never deleted"),
    Guard("reservations_frozen", "reservations", "UPDATE", _FROZEN, "What was accepted never changes"),
    Guard(
        "reservations_forward",
        "reservations",
        "UPDATE",
        "NEW.amount_micro < OLD.amount_micro OR (NEW.state <> OLD.state AND NOT (OLD.state = 'held' "
        "OR (OLD.state = 'expired' AND NEW.state = 'settled')))",
        "A reservation only grows, ends once, and is settled late only after it expired",
    ),
)


def upgrade() -> None:
    """Every entry and wallet is kept as it is; the accounts that go were sums of entries."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    here = Path(__file__)
    script = here.with_name("0019.postgresql.sql" if postgresql else "0019.sqlite.sql")
    drop(ACCOUNTS_KEPT.name, ACCOUNTS_KEPT.table)
    for statement in script.read_text(encoding="utf-8").split(";\n\n"):
        op.execute(statement.replace(":", "\\:"))
    for guard in (ACCOUNTS_KEPT, *RESERVATIONS, *(() if postgresql else ENTRIES)):
        create(guard)
    if postgresql:
        op.execute(
            "CREATE TRIGGER reservations_never_truncated BEFORE TRUNCATE ON reservations "
            "EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What is reserved would be forgotten."""
    raise NotImplementedError("restore a backup instead: going back would forget what is reserved")
