"""A key of a product is bound to the product's source: it sends events of no other."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0072"
down_revision = "0071"
branch_labels = None
depends_on = None

FROZEN = ("key_sha256", "name", "scopes", "org_id", "created_ms", "actor", "reason", "cell_id")


def upgrade() -> None:
    """Keys so far are bound to no source."""
    order = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"ALTER TABLE api_keys ADD COLUMN source TEXT{order}")
    _freeze(*FROZEN, "source")


def downgrade() -> None:
    """Fails, and changes nothing, where a key is bound to a source: it would be bound to none."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM api_keys WHERE source IS NOT NULL").scalar():
        raise NotImplementedError("restore a backup instead: going back would let products send events of any source")
    _freeze(*FROZEN)
    op.execute("ALTER TABLE api_keys DROP COLUMN source")


def _freeze(*columns: str) -> None:
    changed = " OR ".join(f"NEW.{column} <>? OLD.{column}" for column in columns)
    drop("api_keys_frozen", "api_keys")
    message = "What an API key may never changes: make another one"
    create(Guard("api_keys_frozen", "api_keys", "UPDATE", changed, message))
