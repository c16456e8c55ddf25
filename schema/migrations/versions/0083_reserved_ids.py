"""Refuse samples whose ids are reserved: events, runs and batches find theirs by `event:`, `run:` and `batch:`.

A host that had guessed the id of an event inserted its own sample by it, and the event was in conflict for good. A
reserved id goes in at a cell that stands for events or runs alone. On PostgreSQL it takes the right to insert events,
too, which hosts lack. SQLite has no users: whoever may write its file may name that cell.
"""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0083"
down_revision = "0082"
branch_labels = None
depends_on = None

NAME = "samples_ids_reserved"
TABLE = "usage_samples"
RESERVED = " OR ".join(f"(NEW.id >= '{word}\\:' AND NEW.id < '{word};')" for word in ("event", "run", "batch"))
"""By their bytes: `;` follows `:`."""
MESSAGE = "S7: an id that begins with event:, run: or batch: is reserved; choose another id"
FOREIGN = "COALESCE(NEW.cell_id NOT IN ('events', 'runs'), 1 = 1)"
UNENTITLED = "NOT has_table_privilege('usage_events'\\:\\:regclass, 'INSERT')"


def upgrade() -> None:
    """Takes no time, whatever is there. Samples that hosts inserted before stay."""
    refused = f"{FOREIGN} OR {UNENTITLED}" if op.get_bind().dialect.name == "postgresql" else FOREIGN
    create(Guard(NAME, TABLE, "INSERT", f"({RESERVED}) AND ({refused})", MESSAGE))


def downgrade() -> None:
    """Hosts can take the ids of events again."""
    drop(NAME, TABLE)
