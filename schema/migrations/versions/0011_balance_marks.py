"""How far a customer's balance was from what was pushed, when it was last compared."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_MARKS = """
CREATE TABLE balance_marks (
    provider TEXT{c} NOT NULL, customer_id TEXT{c} NOT NULL, feature TEXT{c} NOT NULL,
    since_ms BIGINT NOT NULL, apart_qty BIGINT NOT NULL, at_ms BIGINT NOT NULL,
    org_id TEXT{c} NOT NULL, told_qty BIGINT DEFAULT 0 NOT NULL, told_ms BIGINT,
    PRIMARY KEY (provider, customer_id, feature)
)
"""


def upgrade() -> None:
    """One table; nothing that was there changes."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(_MARKS.replace("{c}", ' COLLATE "C"' if postgresql else ""))


def downgrade() -> None:
    """What was told and acknowledged of balances is told again."""
    op.execute("DROP TABLE balance_marks")
