"""A metric of the guard says what of the mapping it counts, so that no usage is billed by the guard and by the seal."""

from alembic import op

revision = "0041"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Metrics so far count what has their name."""
    order = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"ALTER TABLE guard_metrics ADD COLUMN counts TEXT{order}")


def downgrade() -> None:
    """Fails, and changes nothing, where a metric says what it counts: it might be billed twice from then on."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM guard_metrics WHERE counts IS NOT NULL").scalar():
        raise NotImplementedError("restore a backup instead: going back would forget what metrics count")
    op.execute("ALTER TABLE guard_metrics DROP COLUMN counts")
