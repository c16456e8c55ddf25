"""A key of a program says when it was last used; what suppliers wait for is found by the wallet that was charged, and
runs that nobody settled by when they expired."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column and two indexes; nothing that was there changes, and nothing is known of uses so far."""
    op.execute("ALTER TABLE api_keys ADD COLUMN used_ms BIGINT")
    owed = sa.text("supplier IS NOT NULL")
    op.create_index(
        "reservations_owed_by_wallet", "reservations", ["customer_id"], sqlite_where=owed, postgresql_where=owed
    )
    over = sa.text("state = 'expired'")
    op.create_index("reservations_expired", "reservations", ["ended_ms"], sqlite_where=over, postgresql_where=over)


def downgrade() -> None:
    """When keys were used is forgotten; nothing goes by it."""
    op.drop_index("reservations_expired", "reservations")
    op.drop_index("reservations_owed_by_wallet", "reservations")
    op.execute("ALTER TABLE api_keys DROP COLUMN used_ms")
