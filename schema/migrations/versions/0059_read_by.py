"""By when a customer is read whose last pushes left it far from the end; and whom to ask about first, by an index."""

from alembic import op

revision = "0059"
down_revision = "0058"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nobody is put off before a push says that there is no need."""
    op.execute("ALTER TABLE orgs ADD COLUMN read_by_ms BIGINT")
    op.execute("CREATE INDEX orgs_read_by ON orgs (read_by_ms) WHERE read_by_ms IS NOT NULL")
    op.execute("DROP INDEX orgs_projection_due")
    op.execute(
        "CREATE INDEX orgs_asked ON orgs (is_halted, COALESCE(balance_micro, 0), projection_due_ms) "
        "WHERE projection_due_ms IS NOT NULL"
    )


def downgrade() -> None:
    """Whose turn was to come has it kept as an ask: a version that knows of no turns would never ask."""
    op.execute(
        "UPDATE orgs SET projection_due_ms = read_by_ms, projection_asks = projection_asks + 1 "
        "WHERE read_by_ms IS NOT NULL AND projection_due_ms IS NULL"
    )
    op.execute("DROP INDEX orgs_asked")
    op.execute("CREATE INDEX orgs_projection_due ON orgs (projection_due_ms) WHERE projection_due_ms IS NOT NULL")
    op.execute("DROP INDEX orgs_read_by")
    op.execute("ALTER TABLE orgs DROP COLUMN read_by_ms")
