"""The cursor of arrivals keeps its whole snapshot: a transaction that stays open holds up no other."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One column. The cursors there are lie before whatever was open: nothing is missed."""
    kind = "BIGINT[] DEFAULT '{}'" if op.get_bind().dialect.name == "postgresql" else "TEXT DEFAULT ''"
    op.execute(f"ALTER TABLE buckets ADD COLUMN in_flight {kind} NOT NULL")


def downgrade() -> None:
    """Without it the cursors may have passed a transaction that is still open: all arrivals are read again."""
    op.execute("UPDATE buckets SET cursor = 0, epoch = epoch + 1")
    op.execute("ALTER TABLE buckets DROP COLUMN in_flight")
