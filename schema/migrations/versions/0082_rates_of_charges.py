"""An entry of usage says by which rate it was charged, so that what is given back costs what was charged."""

from alembic import op

revision = "0082"
down_revision = "0081"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column; no row changes. Takes no time on a large table."""
    op.execute("ALTER TABLE ledger_entries ADD COLUMN rate_ms BIGINT")


def downgrade() -> None:
    """By which rate usage was charged is told by its amount again."""
    op.execute("ALTER TABLE ledger_entries DROP COLUMN rate_ms")
