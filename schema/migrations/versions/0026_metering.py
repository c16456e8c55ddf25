"""A run says who charges for it: its receipt, or the samples of the sandboxes that it names."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

GUARDS = (
    Guard(
        "reservations_settled_by_frozen",
        "reservations",
        "UPDATE",
        "NEW.settled_by <>? OLD.settled_by",
        "What was accepted never changes: a run keeps who charges for it",
    ),
    Guard(
        "reservations_metered_forward",
        "reservations",
        "UPDATE",
        "NEW.settled_by = 'metering' AND NEW.drawn_micro < OLD.drawn_micro",
        "What metering has drawn of a hold is never less",
    ),
    Guard("reservation_sandboxes_kept", "reservation_sandboxes", "DELETE", "1 = 1", "A run keeps its sandboxes"),
    Guard(
        "reservation_sandboxes_frozen",
        "reservation_sandboxes",
        "UPDATE",
        "NEW.reservation <>? OLD.reservation OR NEW.sandbox_id <>? OLD.sandbox_id OR NEW.org_id <>? OLD.org_id "
        "OR (NEW.is_open AND NOT OLD.is_open)",
        "A run keeps its sandboxes: they are free again once, as it ends",
    ),
)


def upgrade() -> None:
    """Runs that were accepted before are charged by their receipts, and name no sandbox."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    script = Path(__file__).with_name("0026.sql").read_text(encoding="utf-8")
    for statement in script.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement.replace(":", "\\:"))
    for guard in GUARDS:
        create(guard)
    if postgresql:
        op.execute(
            "CREATE TRIGGER reservation_sandboxes_never_truncated BEFORE TRUNCATE ON reservation_sandboxes "
            "EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What metering charges would be charged by receipts as well."""
    raise NotImplementedError("restore a backup instead: going back would forget which runs metering charges")
