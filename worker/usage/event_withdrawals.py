"""Usage events taken back.

Guarantee: as for samples (`withdrawals`), for an event is billed by its sample: nothing is edited, the next tick gives
back what was billed, and the event's id is never taken again.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.worker.sources.events.find import samples_of
from drawdown.worker.usage.withdrawals import Withdrawn, withdraw


def withdraw_events(
    connection: sa.Connection, source: str, event_ids: Sequence[str], by: By, org_id: str | None = None
) -> list[Withdrawn]:
    """Declare events of a source wrong; those of one organisation, where it is named. Errors: as for samples; those of
    `samples_of`."""
    return withdraw(connection, list(samples_of(connection, source, event_ids, org_id).values()), by)
