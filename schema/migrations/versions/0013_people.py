"""Through what each thing was done that a person did; and what became of quarantined samples."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_CHANGES = """ALTER TABLE operator_actions ADD COLUMN via TEXT DEFAULT 'unknown' NOT NULL;
CREATE INDEX operator_actions_by_target ON operator_actions (target, action_id);
CREATE TABLE quarantine_closed (
    sample_id {id} NOT NULL,
    new_id {id},
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (sample_id)
)"""


def upgrade() -> None:
    """A column, an index and a table; nothing that was there changes."""
    id_ = 'TEXT COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else "TEXT"
    for statement in _CHANGES.replace("{id}", id_).split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Samples that were dealt with are counted as quarantined again; those entered again stay."""
    op.execute("DROP TABLE quarantine_closed")
    op.execute("DROP INDEX operator_actions_by_target")
    op.execute("ALTER TABLE operator_actions DROP COLUMN via")
