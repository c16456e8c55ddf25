"""What is measured: customers read by outcome, rounds of the watch; and indexes, so that looking costs nothing."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_CHANGES = """CREATE TABLE provider_reads (
    provider {id} NOT NULL,
    outcome TEXT NOT NULL,
    reads BIGINT NOT NULL,
    PRIMARY KEY (provider, outcome),
    CONSTRAINT provider_reads_outcome CHECK (outcome IN ('read', 'no_customer', 'failed'))
);
ALTER TABLE watch_state ADD COLUMN rounds BIGINT DEFAULT 0 NOT NULL;
CREATE INDEX orgs_unread ON orgs (unread_since_ms) WHERE unread_since_ms IS NOT NULL;
CREATE INDEX projections_wrong ON projections (at_ms) WHERE reason = 'estimate_wrong';
CREATE INDEX halts_unheeded ON halts (org_id) WHERE unheeded > 0"""


def upgrade() -> None:
    """A table, a column and indexes; nothing that was there changes."""
    id_ = 'TEXT COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else "TEXT"
    for statement in _CHANGES.replace("{id}", id_).split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Nothing is lost but counts."""
    for index in ("halts_unheeded", "projections_wrong", "orgs_unread"):
        op.execute(f"DROP INDEX {index}")
    op.execute("ALTER TABLE watch_state DROP COLUMN rounds")
    op.execute("DROP TABLE provider_reads")
