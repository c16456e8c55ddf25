"""Version 0.1.0, the first migration.

`schema.create` makes this schema. Older schemas cannot be migrated to it.
"""

revision = "0100"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Do nothing, because a new database is created at the newest revision."""


def downgrade() -> None:
    """Refuse a downgrade, because this is the first version."""
    raise NotImplementedError("version 0.1.0 is the first, so it cannot be downgraded. Restore a backup instead")
