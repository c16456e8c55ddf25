"""After which tick a database was found to have lost history: hosts' clocks do not tell which tick came first."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One column; nothing that was there changes."""
    op.execute("ALTER TABLE incarnation ADD COLUMN doubted_after_tick BIGINT")


def downgrade() -> None:
    """What is in doubt now is told by time alone again."""
    op.execute("ALTER TABLE incarnation DROP COLUMN doubted_after_tick")
