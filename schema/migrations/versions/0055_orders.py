"""What people order, and a tick does; and which order a replay was begun by."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None

GUARDS = (
    Guard("orders_no_delete", "orders", "DELETE", "1 = 1", "An order stays on record"),
    Guard(
        "orders_forward",
        "orders",
        "UPDATE",
        "NEW.order_id <> OLD.order_id OR NEW.kind <> OLD.kind OR NEW.asked <> OLD.asked OR NEW.at_ms <> OLD.at_ms "
        "OR NEW.via <> OLD.via OR NEW.actor <> OLD.actor OR NEW.reason <> OLD.reason "
        "OR OLD.state IN ('done', 'failed', 'cancelled') OR (OLD.state = 'under_way' AND NEW.state = 'cancelled')",
        "An order ends once, as what it is, and is cancelled only while it waits",
    ),
)


def upgrade() -> None:
    """Nothing is ordered yet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0055.sql").read_text(encoding="utf-8")
    for statement in text.replace("{serial}", "BIGSERIAL" if postgresql else "INTEGER").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    if postgresql:
        op.execute("CREATE TRIGGER orders_never_truncated BEFORE TRUNCATE ON orders EXECUTE FUNCTION never_truncated()")


def downgrade() -> None:
    """Only while none waits: nobody would do it."""
    open_ones = "SELECT COUNT(*) FROM orders WHERE state IN ('waiting', 'under_way')"
    if op.get_bind().exec_driver_sql(open_ones).scalar():
        raise NotImplementedError("an order waits: let a tick do it, or cancel it, before going back")
    op.execute("DROP INDEX replays_by_order")
    op.execute("ALTER TABLE replays DROP COLUMN order_id")
    for guard in GUARDS:
        drop(guard.name, guard.table)
    op.execute("DROP TABLE orders")
