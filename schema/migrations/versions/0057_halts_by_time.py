"""Halts are found by their time, so that people see the newest first."""

from alembic import op

revision = "0057"
down_revision = "0056"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of what there is, too."""
    op.execute("CREATE INDEX halts_by_time ON halts (halted_at, org_id, cell_id)")


def downgrade() -> None:
    """By their organisation alone."""
    op.execute("DROP INDEX halts_by_time")
