"""A sandbox is taken by a run of its organisation, and by no other's: ids are an organisation's own."""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

INDEX = "reservation_sandboxes_open"


def upgrade() -> None:
    """Nothing that was there changes."""
    _index("org_id", "sandbox_id")


def downgrade() -> None:
    """Fails, and changes nothing, where runs of two organisations name one sandbox."""
    _index("sandbox_id")


def _index(*columns: str) -> None:
    is_open = sa.text("is_open")
    op.drop_index(INDEX, "reservation_sandboxes")
    op.create_index(
        INDEX,
        "reservation_sandboxes",
        list(columns),
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
