"""What the first comparison of a balance's next cycle goes by: what was drawn from parts granted once, and what was
left of them; and the plan that a part came with."""

from alembic import op

revision = "0077"
down_revision = "0076"
branch_labels = None
depends_on = None

COLUMNS = ("accepted_qty", "used_qty", "left_qty", "cycle_left_qty", "ends_ms")


def upgrade() -> None:
    """Adds columns; nothing that was there changes. Takes no time on a large table."""
    collate = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    for column in COLUMNS:
        op.execute(f"ALTER TABLE balance_marks ADD COLUMN {column} BIGINT")
    op.execute(f"ALTER TABLE balance_parts ADD COLUMN plan TEXT{collate}")


def downgrade() -> None:
    """The first comparison of each cycle compares nothing, where a part granted once was used. Parts of plans are
    forgotten: without their plan they would be taken for used up when it ends."""
    op.execute("DELETE FROM balance_parts WHERE plan IS NOT NULL")
    op.execute("ALTER TABLE balance_parts DROP COLUMN plan")
    for column in reversed(COLUMNS):
        op.execute(f"ALTER TABLE balance_marks DROP COLUMN {column}")
