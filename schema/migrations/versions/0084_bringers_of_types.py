"""Keep which key brought an event type, and the source that the key is bound to, so that both have a bound."""

from alembic import op

revision = "0084"
down_revision = "0083"
branch_labels = None
depends_on = None

COLUMNS = ("key_name", "source")


def upgrade() -> None:
    """Adds two columns. Types that were met before count for no key and no source."""
    order = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    for column in COLUMNS:
        op.execute(f"ALTER TABLE event_types ADD COLUMN {column} TEXT{order}")


def downgrade() -> None:
    """One key can use up all event types again."""
    for column in reversed(COLUMNS):
        op.execute(f"ALTER TABLE event_types DROP COLUMN {column}")
