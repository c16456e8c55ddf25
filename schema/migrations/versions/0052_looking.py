"""Indexes for people who look: pushes that need a person, runs by time, sandboxes that run on a cell."""

from alembic import op

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None

INDEXES = {
    "pushes_for_people": "pushes (state, window_ms, org_id, feature, revision) WHERE state IN ('in_doubt', 'rejected')",
    "reservations_by_accepted": "reservations (accepted_ms, reservation)",
    "sandboxes_running": "sandboxes (cell_id) WHERE state = 'running'",
}


def upgrade() -> None:
    """No row changes. Pushes and sandboxes have one of them only while they are in such a state."""
    for name, what in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {what}")


def downgrade() -> None:
    """Nothing is forgotten by it."""
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
