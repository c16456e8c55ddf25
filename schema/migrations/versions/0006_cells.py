"""How often a cell acknowledged a halt while sandboxes ran on, since when; and due halts found by their cell."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_CHANGES = (
    "ALTER TABLE halts ADD COLUMN unheeded INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE halts ADD COLUMN unheeded_since_ms BIGINT",
    "CREATE INDEX halts_due_by_cell ON halts (cell_id, due_at_ms) WHERE due_at_ms IS NOT NULL",
)


def upgrade() -> None:
    """Two columns and an index; nothing that was there changes."""
    for statement in _CHANGES:
        op.execute(statement)


def downgrade() -> None:
    """Nothing is lost that the next acknowledgements do not tell again."""
    op.execute("DROP INDEX halts_due_by_cell")
    for column in ("unheeded", "unheeded_since_ms"):
        op.execute(f"ALTER TABLE halts DROP COLUMN {column}")
