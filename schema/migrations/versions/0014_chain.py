"""What people did is chained by hash, what they did before included."""

import json
from hashlib import sha256

import sqlalchemy as sa
from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_APPEND_ONLY = Guard(
    "operator_actions_no_update", "operator_actions", "UPDATE", "1 = 1", "operator_actions is append-only"
)
_TABLE = """CREATE TABLE action_chain (
    id INTEGER NOT NULL,
    actions BIGINT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT action_chain_one_row CHECK (id = 1)
)"""


def upgrade() -> None:
    """A column and a table; what is on record is not changed."""
    op.execute("ALTER TABLE operator_actions ADD COLUMN hash TEXT")
    op.execute(_TABLE)
    drop(_APPEND_ONLY.name, _APPEND_ONLY.table)
    count, newest = _chain(op.get_bind())
    create(_APPEND_ONLY)
    op.execute(f"INSERT INTO action_chain (id, actions, hash) VALUES (1, {count}, '{newest}')")
    create(
        Guard(
            "action_chain_forward",
            "action_chain",
            "UPDATE",
            "NEW.actions < OLD.actions",
            "the record of actions never becomes shorter",
        )
    )
    create(Guard("action_chain_kept", "action_chain", "DELETE", "1 = 1", "the record of actions is kept"))


def _chain(connection: sa.Connection) -> tuple[int, str]:
    count, newest = 0, ""
    said = "action_id, at_ms, action, target, details, actor, reason, via"
    for row in connection.execute(sa.text(f"SELECT {said} FROM operator_actions ORDER BY action_id")).all():
        newest = sha256(json.dumps([newest, *row[1:]]).encode()).hexdigest()
        connection.execute(
            sa.text("UPDATE operator_actions SET hash = :hash WHERE action_id = :id"), {"hash": newest, "id": row[0]}
        )
        count += 1
    return count, newest


def downgrade() -> None:
    """Going back would forget what shows that the record is whole."""
    raise NotImplementedError("restore a backup instead: going back would forget what shows that the record is whole")
