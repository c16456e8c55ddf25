"""A key of a host is bound to the host's cell: it sends samples of no other."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

FROZEN = ("key_sha256", "name", "scopes", "org_id", "created_ms", "actor", "reason")


def upgrade() -> None:
    """Keys so far are bound to no cell."""
    order = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"ALTER TABLE api_keys ADD COLUMN cell_id TEXT{order}")
    _freeze(*FROZEN, "cell_id")


def downgrade() -> None:
    """Fails, and changes nothing, where a key is bound to a cell: it would be bound to none."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM api_keys WHERE cell_id IS NOT NULL").scalar():
        raise NotImplementedError("restore a backup instead: going back would let hosts send samples of any cell")
    _freeze(*FROZEN)
    op.execute("ALTER TABLE api_keys DROP COLUMN cell_id")


def _freeze(*columns: str) -> None:
    changed = " OR ".join(f"NEW.{column} <>? OLD.{column}" for column in columns)
    drop("api_keys_frozen", "api_keys")
    message = "What an API key may never changes: make another one"
    create(Guard("api_keys_frozen", "api_keys", "UPDATE", changed, message))
