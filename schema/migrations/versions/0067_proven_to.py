"""How far a run of verify proved, and which run it continued."""

from alembic import op

revision = "0067"
down_revision = "0066"
branch_labels = None
depends_on = None

COLUMNS = ("follows", "from_ms", "proven_to_ms", "arrival")


def upgrade() -> None:
    """Runs on record looked at all of it; none of them says how far it proved, so that the next one is whole."""
    for column in COLUMNS:
        op.execute(f"ALTER TABLE proofs ADD COLUMN {column} BIGINT")


def downgrade() -> None:
    """What runs that continued found is forgotten: they would pass for whole ones."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM proofs WHERE follows IS NOT NULL").scalar():
        raise NotImplementedError("restore a backup instead: a run of a part would pass for one of all of it")
    for column in COLUMNS:
        op.execute(f"ALTER TABLE proofs DROP COLUMN {column}")
