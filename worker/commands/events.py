"""Usage events taken back.

Guarantee: as for samples (`withdrawals`), for an event is billed by its sample: nothing is edited, the next tick gives
back what was billed, and the event's id is never taken again.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.sql import queries
from drawdown.worker.commands.withdrawals import Withdrawn, withdraw
from drawdown.worker.sources.events.find import no_event
from drawdown.worker.sources.events.store import sample_id_of

SQL = queries(__file__)


def withdraw_events(connection: sa.Connection, source: str, event_ids: Sequence[str], by: By) -> list[Withdrawn]:
    """Declare events of a source wrong. Errors: as for samples."""
    names = {sample_id_of(source, event_id): event_id for event_id in event_ids}
    there = set(SQL.run(connection, "events_there", {"sample_ids": list(names)}).scalars())
    for name, event_id in names.items():
        if name not in there:
            raise no_event(connection, source, event_id)
    return withdraw(connection, list(names), by)
