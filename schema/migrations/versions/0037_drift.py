"""What cells count of the same usage stands beside ours."""

from pathlib import Path

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A new table without rows: nothing was compared yet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    script = Path(__file__).with_name("0037.sql").read_text(encoding="utf-8")
    for statement in script.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)


def downgrade() -> None:
    """What was compared is forgotten; nothing is billed by it."""
    op.execute("DROP TABLE parity_checks")
