"""What programs sent and was answered `invalid` is counted, by key, code and hour."""

from alembic import op

revision = "0056"
down_revision = "0055"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What was invalid before is not known any more."""
    ident = 'TEXT COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else "TEXT"
    op.execute(
        f"""CREATE TABLE invalid_items (
    hour_ms BIGINT NOT NULL,
    key_name {ident} NOT NULL,
    kind TEXT NOT NULL,
    code TEXT NOT NULL,
    items BIGINT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    source {ident},
    item_id {ident},
    PRIMARY KEY (hour_ms, key_name, kind, code),
    CONSTRAINT invalid_items_kind CHECK (kind IN ('events', 'samples')),
    CONSTRAINT invalid_items_sane CHECK (items > 0 AND last_ms >= first_ms)
)"""
    )


def downgrade() -> None:
    """It is forgotten."""
    op.execute("DROP TABLE invalid_items")
