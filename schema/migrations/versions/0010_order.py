"""How many attempts there were when an answer or a void was written: hosts' clocks do not tell which came first."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two columns; of what was written before, the order stays unknown."""
    for table in ("attempts", "voids"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN attempts_then INTEGER")


def downgrade() -> None:
    """The order of what was written since is unknown again."""
    for table in ("attempts", "voids"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN attempts_then")
