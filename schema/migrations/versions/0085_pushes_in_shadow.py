"""Find what was sealed in shadow by its provider: `status` asks for the first window of each provider in shadow."""

from alembic import op

revision = "0085"
down_revision = "0084"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of what there is, too."""
    op.execute("CREATE INDEX pushes_in_shadow ON pushes (provider, window_ms) WHERE state = 'shadow'")


def downgrade() -> None:
    """All pushes are read for it."""
    op.execute("DROP INDEX pushes_in_shadow")
