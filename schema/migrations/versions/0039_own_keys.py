"""Organisations' own ids: an event is known by its organisation, too, and who brought an event type is kept.

What was taken keeps the id of its sample, which is a claim on source and id among all organisations; by the index it is
found by its own key, too. What is staged in a backfill that is open gets the id by which it will go in.
"""

import hashlib

import sqlalchemy as sa
from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

FROZEN = Guard("backfill_events_frozen", "backfill_events", "UPDATE", "1 = 1", "S7: events never change; stage another")
"""Of 0038."""
STAGED = (
    "SELECT f.backfill, f.sample_id, b.org_id, f.source, f.event_id FROM backfill_events f "
    "JOIN backfills b ON b.backfill = f.backfill WHERE b.state = 'open'"
)


def upgrade() -> None:
    """As long as it takes to index all events by their keys; no event is rewritten."""
    order = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"ALTER TABLE event_types ADD COLUMN org_id TEXT{order}")
    op.execute("CREATE UNIQUE INDEX usage_events_key ON usage_events (source, event_id, org_id)")
    _rename(own=True)


def downgrade() -> None:
    """Only while there is no event: else one organisation's would be taken for another's."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM usage_events").scalar():
        raise NotImplementedError("restore a backup instead: going back would mistake events for others'")
    _rename(own=False)
    op.execute("DROP INDEX usage_events_key")
    op.execute("ALTER TABLE event_types DROP COLUMN org_id")


def _rename(*, own: bool) -> None:
    """What is staged, by the ids of events' samples."""
    connection = op.get_bind()
    drop(FROZEN.name, FROZEN.table)
    named = [
        {"backfill": row.backfill, "old": row.sample_id, "new": _sample_id(*((row.org_id,) * own), *row[3:])}
        for row in connection.exec_driver_sql(STAGED)
    ]
    if named:
        change = "UPDATE backfill_events SET sample_id = :new WHERE backfill = :backfill AND sample_id = :old"
        connection.execute(sa.text(change), named)
    create(FROZEN)


def _sample_id(*parts: str) -> str:
    return "event:" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
