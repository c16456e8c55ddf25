"""Events by their keys. Reads only."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import UnknownId
from drawdown.schema.sql import queries

SQL = queries(__file__)


def no_event(connection: sa.Connection, source: str, event_id: str) -> UnknownId:
    """The error for a key that no event has: the nearest source there is, or the nearest event of that source. Of
    events so many are looked at (`ids.SCANNED`), however many there are."""
    if not ids.tells_names(connection):
        return UnknownId("there is no such event that you may see", ids.USAGE_EVENT.noun)
    values = {"source": source, "scanned": ids.SCANNED, "at_most": ids.NEIGHBOURS, **ids.halves("", event_id)}
    sources = [str(name) for name in SQL.run(connection, "sources", values).scalars()]
    if source not in sources:
        return ids.unknown(ids.SOURCE, source, sources)
    return ids.unknown(ids.USAGE_EVENT, event_id, map(str, SQL.run(connection, "alike", values).scalars()))
