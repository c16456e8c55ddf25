"""Also another card, or a start, of a wallet's top-ups is ordered, and the correction of what a comparison found."""

from typing import Final

from alembic import op

revision = "0073"
down_revision = "0072"
branch_labels = None
depends_on = None

BEFORE: Final = "kind IN ('replay', 'accept', 'assign')"
ALL: Final = "kind IN ('replay', 'accept', 'assign', 'topup', 'correct')"


def upgrade() -> None:
    """Orders that there are keep their kind."""
    _change(BEFORE, ALL)


def downgrade() -> None:
    """Only while there is no other order: it stays on record."""
    if op.get_bind().exec_driver_sql(f"SELECT COUNT(*) FROM orders WHERE NOT ({BEFORE})").scalar():
        raise NotImplementedError("restore a backup instead: going back would forget what was ordered")
    _change(ALL, BEFORE)


def _change(old: str, new: str) -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.execute(f"ALTER TABLE orders DROP CONSTRAINT orders_kind, ADD CONSTRAINT orders_kind CHECK ({new})")
        return
    # SQLite's tables cannot change a constraint: a new one takes the name, with the index and the guards.
    of_table = "SELECT sql FROM sqlite_master WHERE tbl_name = 'orders' AND sql IS NOT NULL AND type"
    table = connection.exec_driver_sql(f"{of_table} = 'table'").scalar_one()
    hung_on = list(connection.exec_driver_sql(f"{of_table} IN ('index', 'trigger')").scalars())
    assert table.count(old) == 1
    connection.exec_driver_sql(table.replace("orders", "orders_new", 1).replace(old, new))
    op.execute("INSERT INTO orders_new SELECT * FROM orders")
    op.execute("DROP TABLE orders")
    op.execute("ALTER TABLE orders_new RENAME TO orders")
    for statement in hung_on:
        connection.exec_driver_sql(statement)
