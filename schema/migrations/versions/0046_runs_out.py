"""When an organisation runs out, as the watch last estimated, and whom nobody bills: both are found by an index."""

from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None

INDEXES = {
    "orgs_runs_out": "orgs (runs_out_ms, org_id) WHERE runs_out_ms IS NOT NULL",
    "orgs_unbilled": "orgs (org_id) WHERE billing_provider IS NULL",
}


def upgrade() -> None:
    """Nobody's end is known until the watch looks again, a minute later at most."""
    op.execute("ALTER TABLE orgs ADD COLUMN runs_out_ms BIGINT")
    for name, over in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {over}")


def downgrade() -> None:
    """Nothing is lost that the watch does not estimate again."""
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    op.execute("ALTER TABLE orgs DROP COLUMN runs_out_ms")
