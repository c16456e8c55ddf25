"""Pushes by their keys, and what is written of many of them at once.

Guarantee: whatever the number, each question and each change is one statement; keys are found by the outbox's own
primary key, for there is no index on their text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.sql import rows_sql
from drawdown.schema.units import PLACE, parse_push_key

PUSH: Final = ids.Kind("push", (), "drawdown push list")
_NEIGHBOURS: Final = tuple(
    f"SELECT key FROM pushes WHERE ({', '.join(PLACE)}) {side} (:{', :'.join(PLACE)}) "
    f"ORDER BY {', '.join(f'{name} {way}' for name in PLACE)} LIMIT :most"
    for side, way in ((">=", "ASC"), ("<", "DESC"))
)
_JOINED: Final = " AND ".join(f"p.{name} = w.{name}" for name in PLACE)

# `p` is a push. What was refused may be on record there, and stand for what a later attempt charged.
ARRIVALS: Final = """(
    SELECT CASE WHEN SUM(CASE WHEN t.outcome = 'rejected' THEN 0 ELSE 1 END) > 0 THEN COUNT(*) ELSE 0 END
    FROM attempts t WHERE t.window_ms = p.window_ms AND t.org_id = p.org_id AND t.feature = p.feature
    AND t.revision = p.revision
    AND (t.outcome IS NULL OR t.outcome IN ('unknown', 'queued', 'accepted', 'rejected')))"""
"""How many attempts may have arrived, if one of them may have charged."""


def place_of(push: Any) -> dict[str, Any]:
    """The primary key of a row that is about a push."""
    return {name: getattr(push, name) for name in PLACE}


def find_push(connection: sa.Connection, key: str) -> sa.Row[Any]:
    """The push with a key, `usage:{org}:{window}:{feature}[:rN]`.

    Errors: UnknownId where there is none.
    """
    return require_push(connection, find_pushes(connection, [key]), key)


def require_push(connection: sa.Connection, found: dict[str, sa.Row[Any]], key: str) -> sa.Row[Any]:
    """One of those that were looked for. Errors: UnknownId where there is none, with the nearest that there is."""
    if key not in found:
        raise ids.unknown(PUSH, key, _around(connection, key))
    return found[key]


def _around(connection: sa.Connection, key: str) -> list[str]:
    """The keys on either side of where this one would stand; the newest where it is like none."""
    place = parse_push_key(key) or {"window_ms": 2**62, "org_id": "", "feature": "", "revision": 0}
    values = {**place, "most": ids.NEIGHBOURS}
    return [str(one) for text in _NEIGHBOURS for one in connection.execute(sa.text(text), values).scalars()]


def find_pushes(connection: sa.Connection, keys: Iterable[str], *, hold: bool = False) -> dict[str, sa.Row[Any]]:
    """Those of these pushes that there are, by the key asked for. `hold`: nobody else changes them before the
    transaction ends; otherwise a push accepted this moment could be voided as the one in doubt that it was."""
    places = {key: place for key in keys if (place := parse_push_key(key)) is not None}
    own = " FOR UPDATE OF p" if hold and connection.dialect.name == "postgresql" else ""
    rows = connection.execute(
        sa.text(f"SELECT p.* FROM ({rows_sql(connection, PLACE)}) w JOIN pushes p ON {_JOINED}{own}"),
        {"rows": json.dumps(list(places.values()))},
    )
    by_place = {tuple(place_of(row).values()): row for row in rows}
    return {key: by_place[where] for key, place in places.items() if (where := tuple(place.values())) in by_place}


def change(connection: sa.Connection, rows: Sequence[Any], to: str, now_ms: int) -> None:
    """Change the delivery state of pushes; `to` is what follows SET."""
    connection.execute(
        sa.text(
            f"UPDATE pushes SET {to} FROM ({rows_sql(connection, PLACE)}) w WHERE " + _JOINED.replace("p.", "pushes.")
        ),
        {"rows": json.dumps([place_of(row) for row in rows]), "now": now_ms},
    )


_UNANSWERED: Final = f"""
SELECT w.window_ms, w.org_id, w.feature, w.revision, MAX(p.started_ms) AS newest_ms
FROM ({{rows}}) w JOIN attempts p ON {_JOINED} WHERE p.outcome IS NULL OR p.outcome = 'unknown'
GROUP BY w.window_ms, w.org_id, w.feature, w.revision
"""


def newest_unanswered(connection: sa.Connection, rows: Sequence[Any]) -> list[int | None]:
    """When the newest attempt began whose answer was never seen, for each of these pushes."""
    found = connection.execute(
        sa.text(_UNANSWERED.format(rows=rows_sql(connection, PLACE))),
        {"rows": json.dumps([place_of(row) for row in rows])},
    )
    newest = {tuple(place_of(one).values()): int(one.newest_ms) for one in found}
    return [newest.get(tuple(place_of(row).values())) for row in rows]
