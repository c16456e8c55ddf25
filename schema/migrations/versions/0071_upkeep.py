"""Samples and pushes are vacuumed once a fiftieth of their rows is new or gone (PostgreSQL), not a fifth.

A pruned day of 36 is less than a fifth: its room would be used again after a week. A push leaves two rows behind on its
way to settled, and an entry of each in the index of what is open, which every tick reads."""

from alembic import op

revision = "0071"
down_revision = "0070"
branch_labels = None
depends_on = None

TABLES = ("usage_samples", "pushes")
SETTINGS = ("autovacuum_vacuum_scale_factor", "autovacuum_vacuum_insert_scale_factor")


def upgrade() -> None:
    """Who reads or writes does not wait for it."""
    if op.get_bind().dialect.name == "postgresql":
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = 0.02' for name in SETTINGS)})")


def downgrade() -> None:
    """The server's own again."""
    if op.get_bind().dialect.name == "postgresql":
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} RESET ({', '.join(SETTINGS)})")
