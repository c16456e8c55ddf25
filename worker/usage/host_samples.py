"""Store samples that hosts send over HTTP, several in a request.

Each sample gets its own answer, like each usage event.

Guarantee: a sample is stored once by its id. The same id with different content is stored separately, as a conflict
(S7). A sample below its organisation's floor is not stored, because its window is closed for good (S4). If the answer
is `accepted`, the sample is above the floor when it is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import sqlalchemy as sa

from drawdown.schema.locks import lock_orgs
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS, window_of
from drawdown.worker.catalog.mapping import MappingRow, mapping_rows, resolve
from drawdown.worker.sources.events import store
from drawdown.worker.sources.events.store import TOO_LATE, UNASSIGNED, EventResult
from drawdown.worker.sources.samples.rows import Sample
from drawdown.worker.sources.samples.store import store_each

SQL = queries(__file__)

_PLAIN: Final = {"accepted": EventResult("accepted"), "duplicate": EventResult("duplicate")}
_OTHER: Final = EventResult(
    "conflict", "other_content", "its id was used before with different content, so Drawdown stores this sample apart"
)


@dataclass(frozen=True)
class _Standing:
    """The provider of an organisation in a window, and the organisation's floor.

    The provider is None if the organisation is unassigned.
    """

    provider: str | None
    floor_ms: int


def take_samples(connection: sa.Connection, rows: Sequence[Sample], origin: str, now_ms: int) -> list[EventResult]:
    """Store samples. Return an answer for each, in their order.

    `origin`: the text to store with conflicts.
    """
    turn = connection.begin_nested()
    taken = _take(connection, rows, origin)
    if store.hold(connection, [(row[1], row[7]) for row in rows], taken, now_ms):
        return taken
    turn.rollback()
    # A floor was just raised past some samples, so they get TOO_LATE. The lock prevents another rise.
    lock_orgs(connection, {row[1] for row in rows})
    return _take(connection, rows, origin)


def _take(connection: sa.Connection, rows: Sequence[Sample], origin: str) -> list[EventResult]:
    spots = [(row[1], int(window_of(row[7]))) for row in rows]
    standing = _standing(connection, spots)
    fit = [at for at, row in enumerate(rows) if row[7] >= standing[spots[at]].floor_ms]
    stored = dict(zip(fit, store_each(connection, [rows[at] for at in fit], origin) if fit else (), strict=True))
    mapping = mapping_rows(connection) if "accepted" in stored.values() else []
    waits = cache(partial(_waits, [row for row in mapping if not row.is_of_events]))
    answers = []
    for at, row in enumerate(rows):
        if (found := stored.get(at)) is None:
            answers.append(TOO_LATE)
        elif found == "conflict":
            answers.append(_OTHER)
        else:
            why = waits(row[4], spots[at][1], standing[spots[at]].provider) if found == "accepted" else None
            answers.append(why or _PLAIN[found])
    return answers


def _standing(connection: sa.Connection, spots: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], _Standing]:
    asked = [{"org_id": org, "window_ms": window} for org, window in sorted(set(spots))]
    rows = SQL.run(connection, "standing", {"spots": asked})
    return {(row.org_id, int(row.window_ms)): _Standing(row.provider, int(row.floor_ms)) for row in rows}


def _waits(mapping: Sequence[MappingRow], memory_mb: int, window_ms: int, provider: str | None) -> EventResult | None:
    """Return the reason why an accepted sample is pending.

    Return None if the sample is billed with its window.
    """
    if provider is None:
        return UNASSIGNED
    if provider in EXEMPT_PROVIDERS or resolve(mapping, memory_mb, window_ms) is not None:
        return None
    said = f"{memory_mb} MB does not have a feature then. Run `drawdown feature map FEATURE --memory-mb {memory_mb}`"
    return EventResult("pending", "unmapped", said)
