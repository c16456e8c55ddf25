"""Balances in credits: what a unit costs, the scale of a comparison, parts that were granted once; and what a sandbox
uses before its first sample."""

from alembic import op

revision = "0076"
down_revision = "0075"
branch_labels = None
depends_on = None

_PARTS = """
CREATE TABLE balance_parts (
    provider TEXT{c} NOT NULL, customer_id TEXT{c} NOT NULL, balance TEXT{c} NOT NULL, part TEXT{c} NOT NULL,
    granted TEXT NOT NULL, ends_ms BIGINT, seen_ms BIGINT NOT NULL,
    PRIMARY KEY (provider, customer_id, balance, part)
)
"""


def upgrade() -> None:
    """Adds columns and one table; nothing that was there changes. Takes no time on a large table."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    collate = ' COLLATE "C"' if postgresql else ""
    op.execute(_PARTS.replace("{c}", collate))
    op.execute(f"ALTER TABLE provider_rates ADD COLUMN balance TEXT{collate}")
    op.execute("ALTER TABLE provider_rates ADD COLUMN confirmed_ms BIGINT")
    op.execute("ALTER TABLE provider_states ADD COLUMN costs_read_ms BIGINT")
    op.execute("ALTER TABLE balance_marks ADD COLUMN scale BIGINT DEFAULT 1 NOT NULL")
    op.execute("ALTER TABLE sandboxes ADD COLUMN memory_mb BIGINT")
    op.execute("ALTER TABLE sandboxes ADD COLUMN since_ms BIGINT")
    op.execute("CREATE INDEX sandboxes_since ON sandboxes (since_ms) WHERE state = 'running'")


def downgrade() -> None:
    """Costs in credits are told again, and balances are compared anew."""
    op.execute("DROP INDEX sandboxes_since")
    for table, column in (
        ("sandboxes", "since_ms"),
        ("sandboxes", "memory_mb"),
        ("balance_marks", "scale"),
        ("provider_states", "costs_read_ms"),
        ("provider_rates", "confirmed_ms"),
        ("provider_rates", "balance"),
    ):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.execute("DROP TABLE balance_parts")
