"""What the server keeps: webhooks, the gate's asks, used signatures; and attempts found by their time."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = """CREATE TABLE webhooks (
    provider {id} NOT NULL,
    event_id {id} NOT NULL,
    received_ms BIGINT NOT NULL,
    body_sha256 TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (provider, event_id),
    CONSTRAINT webhooks_state CHECK (state IN ('done', 'ignored', 'failed'))
);
CREATE INDEX webhooks_by_time ON webhooks (received_ms);
CREATE TABLE gate_asks (
    org_id {id} NOT NULL,
    asked_ms BIGINT NOT NULL,
    busy_until_ms BIGINT,
    PRIMARY KEY (org_id)
);
CREATE TABLE used_signatures (
    signature_sha256 TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (signature_sha256)
);
CREATE INDEX used_signatures_by_time ON used_signatures (expires_ms);
CREATE INDEX attempts_by_start ON attempts (started_ms)"""


def upgrade() -> None:
    """Three tables and an index; nothing that was there changes."""
    id_ = 'TEXT COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else "TEXT"
    for statement in _TABLES.replace("{id}", id_).split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Going back would forget which webhooks and signatures were taken."""
    raise NotImplementedError("restore a backup instead: going back would forget what was taken")
