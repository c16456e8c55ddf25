"""What checks last found is kept, and what the guard let through in the dark is found by an index."""

from pathlib import Path

from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing was checked yet. The index is over what is rare."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0042.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)


def downgrade() -> None:
    """What was last found is forgotten; the next check finds it again."""
    op.execute("DROP INDEX guard_uses_dark")
    op.execute("DROP TABLE checks")
