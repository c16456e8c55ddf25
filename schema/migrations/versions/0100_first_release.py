"""Version 0.1.0: migrations begin here. `schema.create` makes this schema; no older schema is migrated to it."""

revision = "0100"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing is left to do: a new database is created at the newest revision."""


def downgrade() -> None:
    """There is no version before it."""
    raise NotImplementedError("no version comes before 0.1.0")
