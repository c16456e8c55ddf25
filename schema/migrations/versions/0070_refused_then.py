"""A push that is refused later keeps how many attempts it had by then: an answer to one of them says what held before.
And what was proven unsent is found by its window, as what was never sent."""

from alembic import op

revision = "0070"
down_revision = "0069"
branch_labels = None
depends_on = None

_INDEX = (
    "CREATE INDEX pushes_unsent ON pushes (provider, window_ms) WHERE state = 'due' AND {} AND provider <> 'embedded'"
)


def upgrade() -> None:
    """Refusals that there were are told by the claim that they took away, until something else claims their push."""
    op.execute("ALTER TABLE pushes ADD COLUMN refused_attempts INTEGER")
    op.execute(
        "UPDATE pushes SET refused_attempts = attempts WHERE state IN ('rejected', 'in_doubt') AND claim_owner IS NULL"
    )
    op.execute("DROP INDEX pushes_unsent")
    op.execute(_INDEX.format("first_attempt_ms IS NULL"))


def downgrade() -> None:
    """By the claim alone again."""
    op.execute("DROP INDEX pushes_unsent")
    op.execute(_INDEX.format("attempts = 0"))
    op.execute("ALTER TABLE pushes DROP COLUMN refused_attempts")
