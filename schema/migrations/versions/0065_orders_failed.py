"""Orders that failed lately are found by an index, however many were done since."""

from alembic import op

revision = "0065"
down_revision = "0064"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """An order is placed by a person: the table is small."""
    op.execute("CREATE INDEX orders_failed ON orders (ended_ms) WHERE state = 'failed'")


def downgrade() -> None:
    """Nothing is lost."""
    op.execute("DROP INDEX orders_failed")
