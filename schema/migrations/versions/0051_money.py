"""Lists of wallets, settlements and comparisons are read page by page; who spent most, as somebody looked, is kept."""

from pathlib import Path

from alembic import op

revision = "0051"
down_revision = "0049"
branch_labels = None
depends_on = None

INDEXES = (
    "ledger_accounts_by_balance",
    "ledger_entries_of_runs",
    "settlements_by_time",
    "reconciliations_by_run",
    "parity_checks_found",
)


def upgrade() -> None:
    """No row changes. Nobody has looked yet who spent most."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0051.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)


def downgrade() -> None:
    """Who spent most is forgotten; the next look finds it again."""
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    op.execute("DROP TABLE high_spenders")
