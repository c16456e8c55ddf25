"""Features that a limit of the provider refuses although the balance lasts: what waits for credit waits for them."""

from alembic import op

revision = "0078"
down_revision = "0077"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column; nothing that was there changes. Takes no time on a large table."""
    op.execute("ALTER TABLE orgs ADD COLUMN refused TEXT")


def downgrade() -> None:
    """What a limit refuses is billed again and refused again, ever more seldom."""
    op.execute("ALTER TABLE orgs DROP COLUMN refused")
