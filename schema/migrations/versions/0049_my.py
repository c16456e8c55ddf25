"""Organisations' own people: who came in by a link, and which links were used."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0049"
down_revision = "0046"
branch_labels = None
depends_on = None

GUARDS = (
    Guard(
        "my_sessions_frozen",
        "my_sessions",
        "UPDATE",
        "NEW.session_sha256 <> OLD.session_sha256 OR NEW.link_sha256 <> OLD.link_sha256 OR NEW.org_id <> OLD.org_id "
        "OR NEW.person <>? OLD.person OR NEW.began_ms <> OLD.began_ms OR OLD.ended_ms IS NOT NULL",
        "A session stays one organisation's, and ends once",
    ),
)


def upgrade() -> None:
    """Nobody came in by a link before."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0049.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)


def downgrade() -> None:
    """Whoever is in has to come by another link."""
    for guard in GUARDS:
        drop(guard.name, guard.table)
    op.execute("DROP TABLE my_sessions")
