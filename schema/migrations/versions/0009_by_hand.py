"""Which pushes a person billed by hand: their providers' events need not show them."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Never sent, known over there by no name, and settled all the same: so far that was how they were told.
_SO_FAR = """
UPDATE pushes SET by_hand = {true} WHERE state = 'accepted' AND attempts = 0 AND wire_key IS NULL
    AND NOT EXISTS (SELECT 1 FROM adoptions x WHERE x.window_ms = pushes.window_ms AND x.org_id = pushes.org_id
    AND x.feature = pushes.feature AND x.revision = pushes.revision)
"""


def upgrade() -> None:
    """One column; nothing that was there changes."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(f"ALTER TABLE pushes ADD COLUMN by_hand BOOLEAN DEFAULT {'false' if postgresql else '0'} NOT NULL")
    op.execute(_SO_FAR.replace("{true}", "true" if postgresql else "1"))


def downgrade() -> None:
    """What was billed by hand after an attempt is short in each comparison again."""
    op.execute("ALTER TABLE pushes DROP COLUMN by_hand")
