"""Events by their keys: a source and an id, which several organisations may have used. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.sql import queries

SQL = queries(__file__)


def samples_of(
    connection: sa.Connection, source: str, event_ids: Sequence[str], org_id: str | None = None
) -> dict[str, str]:
    """The ids of the samples of a source's events, by the events' ids, each once, in the order that was given; of one
    organisation where it is named. Errors: UnknownId; UsageError for an id that several organisations used."""
    values = {"source": source, "event_ids": list(event_ids), "org_id": org_id or ""}
    rows = SQL.run(connection, "of_keys", values).all()
    found: dict[str, str] = {}
    for event_id in dict.fromkeys(event_ids):
        mine = [row for row in rows if row.event_id == event_id]
        if not mine:
            raise no_event(connection, source, event_id)
        if len(mine) > 1:
            orgs = ", ".join(str(row.org_id) for row in mine[: ids.NEIGHBOURS])
            raise UsageError(
                f"{event_id} of {source} is an event of several organisations, {orgs}: name one with --org"
            )
        found[event_id] = str(mine[0].sample_id)
    return found


def require_source(connection: sa.Connection, source: str) -> None:
    """Errors: UnknownId for a source that no event has, with the nearest."""
    if SQL.run(connection, "is_source", {"source": source}).first() is None:
        values = {"scanned": ids.SCANNED, "at_most": ids.NEIGHBOURS}
        raise ids.unknown(ids.SOURCE, source, map(str, SQL.run(connection, "sources", values).scalars()))


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
