"""The cost in credits at which each push was charged, and how much more than it was told a balance may differ."""

from alembic import op

revision = "0081"
down_revision = "0080"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Earlier pushes keep no cost: while a cost changed, their amounts have a least and a most."""
    op.execute("ALTER TABLE pushes ADD COLUMN credit_cost TEXT")
    op.execute("ALTER TABLE balance_marks ADD COLUMN unsure_qty BIGINT DEFAULT 0 NOT NULL")


def downgrade() -> None:
    """A charge that was made while a cost changed has a least and a most amount again."""
    op.execute("ALTER TABLE balance_marks DROP COLUMN unsure_qty")
    op.execute("ALTER TABLE pushes DROP COLUMN credit_cost")
