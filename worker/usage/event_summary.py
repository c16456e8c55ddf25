"""The public summary of usage events, which passes the gate before anybody reads it. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from drawdown.events.privacy.scan import require_public
from drawdown.events.summary import LEAST, NAME, SHAPE, OrgUse, grouped
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.usage.privacy import known_ids

SQL = queries(__file__)
MAX_SUMMARY_DAYS: Final = 400
MAX_USES: Final = 1_000_000
"""Organisations by plan, kind and day that one summary is made of."""


def summarise(
    connection: sa.Connection, from_ms: int, to_ms: int, now_ms: int, secrets: Collection[str] = ()
) -> dict[str, Any]:
    """The summary of the days of [from_ms, to_ms) in UTC, as it may be published: `events.summary.SHAPE`.

    Errors: UsageError for a range off the days, empty, or too long; NotPublic where a label is private.
    """
    if from_ms % DAY_MS or to_ms % DAY_MS:
        raise UsageError("a summary is of whole days in UTC: --from and --to are days, such as 2026-01-31")
    if to_ms <= from_ms:
        raise UsageError("the range is empty: --to lies after --from")
    if to_ms - from_ms > MAX_SUMMARY_DAYS * DAY_MS:
        raise UsageError(f"the range is longer than {MAX_SUMMARY_DAYS} days: make a summary of each of its parts")
    rows, withheld = grouped(_uses(connection, from_ms, to_ms))
    report = {
        "report": NAME,
        "made_at": datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "from": _day(from_ms),
        "to": _day(to_ms),
        "least": LEAST,
        "withheld": withheld,
        "rows": [asdict(row) for row in rows],
    }
    shared = {label for row in rows for label in (row.plan, row.kind)}  # by LEAST organisations: it is no one's id

    def private(words: frozenset[str]) -> set[str]:
        return known_ids(connection, words - shared)

    require_public(report, SHAPE, known_ids=private, secrets=secrets)
    return report


def _uses(connection: sa.Connection, from_ms: int, to_ms: int) -> Iterator[OrgUse]:
    values = {"from_ms": from_ms, "to_ms": to_ms, "at_most": MAX_USES + 1}
    for number, row in enumerate(SQL.run(connection, "uses", values)):
        if number == MAX_USES:
            raise UsageError("these are too many organisations, plans, kinds and days: choose a shorter range")
        day, events, quantity = _day(int(row.day_ms)), int(row.events), int(row.quantity)
        yield OrgUse(str(row.org_id), row.plan_key, str(row.event_type), day, events, quantity)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).date().isoformat()
