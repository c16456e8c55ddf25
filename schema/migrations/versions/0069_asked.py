"""Queries that are asked of other databases, beside folders that are watched."""

from alembic import op

revision = "0069"
down_revision = "0068"
branch_labels = None
depends_on = None

COLUMNS = {
    "query": "TEXT",
    "asked_of": "TEXT",
    "period_ms": "BIGINT",
    "closes_after_ms": "BIGINT",
    "next_ms": "BIGINT",
}


def upgrade() -> None:
    """Of a folder they say nothing."""
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE batch_sources ADD COLUMN {name} {kind}")


def downgrade() -> None:
    """Queries are asked no more; what was taken of them stays."""
    op.execute("DELETE FROM batch_sources WHERE query IS NOT NULL")
    for name in COLUMNS:
        op.execute(f"ALTER TABLE batch_sources DROP COLUMN {name}")
