"""Pushes never sent are found by their window: the newest are sent first. An accepted push may be in doubt again, where
one of several attempts is refused later."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0066"
down_revision = "0065"
branch_labels = None
depends_on = None


def final(after_accepted: str) -> Guard:
    """What may follow a state, and what an accepted push may become."""
    return Guard(
        "pushes_final",
        "pushes",
        "UPDATE",
        "(OLD.state IN ('voided', 'carried', 'shadow') AND NEW.state NOT IN (OLD.state, 'voided')) "
        f"OR (OLD.state = 'accepted' AND NEW.state NOT IN ({after_accepted})) "
        "OR (OLD.state = 'in_doubt' AND NEW.state IN ('due', 'queued'))",
        "P5, P2: a settled push is not opened again, one in doubt is not sent again",
    )


def upgrade() -> None:
    """Of what there is, too."""
    op.execute(
        "CREATE INDEX pushes_unsent ON pushes (provider, window_ms) "
        "WHERE state = 'due' AND attempts = 0 AND provider <> 'embedded'"
    )
    drop("pushes_final", "pushes")
    create(final("'accepted', 'rejected', 'voided', 'in_doubt'"))


def downgrade() -> None:
    """By when they are due alone."""
    drop("pushes_final", "pushes")
    create(final("'accepted', 'rejected', 'voided'"))
    op.execute("DROP INDEX pushes_unsent")
