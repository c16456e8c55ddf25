"""A push says when its provider was last asked what became of it, and what the answer was."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two columns; nothing that was there changes, and nothing is known of lookups made so far."""
    op.execute("ALTER TABLE pushes ADD COLUMN looked_up_ms BIGINT")
    op.execute("ALTER TABLE pushes ADD COLUMN lookup_answer TEXT")


def downgrade() -> None:
    """It is forgotten; nothing goes by it."""
    op.execute("ALTER TABLE pushes DROP COLUMN looked_up_ms")
    op.execute("ALTER TABLE pushes DROP COLUMN lookup_answer")
