"""What a host says of a meter is quarantined: events and runs are told by Drawdown's own commands alone (PostgreSQL).

A meter's row is known by its size and by `events` or `runs` as its cell, and a host says both of a sample. Such a row
counted units that no event tells of, and its organisation was stopped. Hosts are told from others by what they may
not: whoever tells events may insert those. SQLite has no users.
"""

from alembic import op

revision = "0074"
down_revision = "0073"
branch_labels = None
depends_on = None

NAME = "samples_without_meters"


def upgrade() -> None:
    """Takes no time, whatever is there. What was forged before stays, and `verify` names it."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        f"CREATE FUNCTION {NAME}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.cell_id = 'a host, of ' || NEW.cell_id; RETURN NEW; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {NAME} BEFORE INSERT ON usage_samples FOR EACH ROW WHEN (NEW.memory_mb > 16777216 "
        "AND NEW.cell_id IN ('events', 'runs') AND NOT has_table_privilege('usage_events'\\:\\:regclass, 'INSERT')) "
        f"EXECUTE FUNCTION {NAME}()"
    )


def downgrade() -> None:
    """What hosts say of meters would count again."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP TRIGGER {NAME} ON usage_samples")
        op.execute(f"DROP FUNCTION {NAME}()")
