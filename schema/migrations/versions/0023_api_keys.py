"""Programs prove who they are by a key, of which the hash alone lies here."""

import sqlalchemy as sa
from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_FROZEN = " OR ".join(
    f"NEW.{column} <>? OLD.{column}"
    for column in ("key_sha256", "name", "scopes", "org_id", "created_ms", "actor", "reason")
)
GUARDS = (
    Guard("api_keys_kept", "api_keys", "DELETE", "1 = 1", "An API key is never deleted: it is ended"),
    Guard("api_keys_frozen", "api_keys", "UPDATE", _FROZEN, "What an API key may never changes: make another one"),
    Guard(
        "api_keys_forward",
        "api_keys",
        "UPDATE",
        "(OLD.rotated_ms IS NOT NULL AND NEW.rotated_ms <>? OLD.rotated_ms) "
        "OR (OLD.ended_ms IS NOT NULL AND NEW.ended_ms <>? OLD.ended_ms) "
        "OR (OLD.expires_ms IS NOT NULL AND (NEW.expires_ms IS NULL OR NEW.expires_ms > OLD.expires_ms))",
        "An API key is rotated once, ends once, and never lives longer than was said",
    ),
)


def upgrade() -> None:
    """One table. A name has one key that goes on; what it was rotated from stays beside it."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = sa.Text(collation="C") if postgresql else sa.Text()
    op.create_table(
        "api_keys",
        sa.Column("key_sha256", sa.Text(), primary_key=True),
        sa.Column("name", text, nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("org_id", text, nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("rotated_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("length(key_sha256) = 64", name="api_keys_hash"),
    )
    going = sa.text("rotated_ms IS NULL")
    op.create_index("api_keys_going", "api_keys", ["name"], unique=True, sqlite_where=going, postgresql_where=going)
    for guard in GUARDS:
        create(guard)
    if postgresql:
        op.execute(
            "CREATE TRIGGER api_keys_never_truncated BEFORE TRUNCATE ON api_keys EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """Programs would be let in by nothing, and who was let in would be forgotten."""
    raise NotImplementedError("restore a backup instead: going back would forget who was let in")
