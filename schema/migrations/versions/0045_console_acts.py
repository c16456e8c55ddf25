"""The console: the keys of forms that were sent, so that none is done twice."""

from pathlib import Path

from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No form was sent yet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0045.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)


def downgrade() -> None:
    """What was done stays in the audit."""
    op.execute("DROP TABLE console_acts")
