"""What waits and is billed by nobody yet, by reason and by organisation, with what mends it. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import FUTURE_SLACK_MS
from drawdown.worker.status.headline import PENDING
from drawdown.worker.status.standing import PendingUsage

SQL = queries(__file__)

PAGE_ROWS: Final = 50
WHAT: Final = {
    "unknown_org": "of organisations that nobody registered",
    "no_assignment": "unassigned: nobody bills these windows",
    "no_customer": "assigned, and no customer is named there",
    "no_provider": "assigned to a provider that no tick has met",
    "no_mapping": "unmapped: it makes no feature",
}
"""Reasons for which usage waits, in words; `headline.PENDING` says what mends each."""
assert set(WHAT) == set(PENDING)


@dataclass(frozen=True)
class PendingOrg:
    """What waits of one organisation for one reason, in how many sizes or event types."""

    org_id: str
    reason: str
    seconds: int
    units: int
    samples: int
    sizes: int
    since_ms: int


@dataclass(frozen=True)
class PendingPage:
    """`next_after`: where the next page begins; None where there is no more."""

    orgs: list[PendingOrg]
    next_after: str | None


@dataclass(frozen=True)
class Beside:
    """Windows that the next tick seals again; samples below a floor; samples that are dated ahead."""

    dirty_windows: int
    late: int
    dated_ahead: int


def reasons(connection: sa.Connection) -> list[PendingUsage]:
    """As `status` sums them up."""
    return [
        PendingUsage(row.reason, int(row.seconds), row.orgs, row.since_ms, int(row.units))
        for row in SQL.run(connection, "reasons")
    ]


def page(connection: sa.Connection, reason: str = "", after: str = "", most: int = PAGE_ROWS) -> PendingPage:
    """Organisations behind `after`, by id. Errors: UsageError for a reason there is not."""
    if reason and reason not in WHAT:
        raise UsageError(f"reason: there is {', '.join(WHAT)}")
    values = {"reason": reason, "after": after, "at_most": most + len(WHAT)}
    found = [
        PendingOrg(row.org_id, row.reason, int(row.seconds), int(row.units), int(row.samples), row.sizes, row.since_ms)
        for row in SQL.run(connection, "orgs", values)
    ]
    if len(found) <= most:
        return PendingPage(found, None)
    last = found[most - 1].org_id
    shown = [one for one in found if one.org_id <= last]
    return PendingPage(shown, last if len(found) > len(shown) else None)


def beside(connection: sa.Connection, now_ms: int) -> Beside:
    """What waits for a tick, or for a person, without being pending usage."""
    row = SQL.run(connection, "windows", {"ahead_ms": now_ms + FUTURE_SLACK_MS}).one()
    return Beside(int(row.dirty), int(row.late), int(row.ahead))
