"""List the results of comparisons with providers, and missing comparisons (R2).

This module only reads the database, and does not call providers.

Guarantee: `of_days` returns differences first. A page begins after the last line of the previous page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import Part, queries, read_together
from drawdown.schema.text import NEEDS_YOU, quote_value
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

MOST_ON_PAGE: Final = 50
"""Most comparisons with providers that one page lists."""
MOST_DIFFERING: Final = 100
"""Most differing comparisons that a page shows first."""
MOST_RUNS: Final = 10
"""Most runs of comparisons that a page lists, the latest first."""
MOST_COUNTED: Final = 1_000
"""Most comparisons of one run that a page counts. From this number on, the page shows "or more"."""
MOST_TOLD: Final = 50
"""Maximum number of unacknowledged balance differences that a page lists."""
MOST_LINES_AT_ONCE: Final = 1_000
"""Most comparisons of a download that Drawdown reads into memory at a time."""
VERDICTS: Final = ("short", "over", "equal", "shadow")


@dataclass(frozen=True)
class Compared:
    """The last comparison of an organisation's feature on a day, in base units.

    `ours_qty`, `theirs_qty`: the accepted quantity, and the provider's. `verdict`: short (the provider has less), over,
    equal, or shadow (another system bills there).
    """

    day_ms: int
    org_id: str
    provider: str
    customer_id: str
    feature: str
    ours_qty: int
    theirs_qty: int
    verdict: str
    at_ms: int


@dataclass(frozen=True)
class ComparedAt:
    """The comparisons of one time that are the last of their feature and day.

    `lines`: the number of comparisons. `differing`: the number of comparisons with a difference. The number
    MOST_COUNTED means this number or more.
    """

    at_ms: int
    lines: int
    differing: int


@dataclass(frozen=True)
class UnacknowledgedDifference:
    """An unacknowledged difference between a balance's draws and our pushes.

    `feature`: the balance; `scale` quantities make one unit of it. `told_qty`: the reported difference in these
    quantities, positive if the balance drew more. `unsure_qty`: the uncertainty, because of which the difference may be
    0. `told_ms`: the time of the report in milliseconds (None: not on record).
    """

    provider: str
    customer_id: str
    feature: str
    org_id: str
    told_qty: int
    told_ms: int | None
    scale: int = 1
    unsure_qty: int = 0


@dataclass(frozen=True)
class ComparedFilter:
    """A filter of comparisons. An empty field matches all."""

    provider: str = ""
    org: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class After:
    """The key of the comparison after which a page begins."""

    day_ms: int
    org: str
    provider: str
    customer: str
    feature: str


@dataclass(frozen=True)
class ComparedLines:
    """A page of comparisons.

    `after`: the start of the next page; None: this is the last.
    """

    lines: list[Compared]
    after: After | None


def differing(connection: sa.Connection, chosen: ComparedFilter, most: int = MOST_DIFFERING) -> list[Compared]:
    """Return the comparisons that differ, the latest day first.

    Errors: UnknownId for an unknown organisation or provider; UsageError for an invalid verdict.
    """
    _require(connection, chosen)
    values = {"provider": chosen.provider, "org_id": chosen.org, "verdict": chosen.verdict, "at_most": most}
    return [Compared(**row._mapping) for row in SQL.run(connection, "differing", values)]


def page(
    connection: sa.Connection, chosen: ComparedFilter, after: After | None = None, most: int = MOST_ON_PAGE
) -> ComparedLines:
    """Return the comparisons after `after`, the latest day first.

    Errors: UnknownId for an unknown organisation or provider; UsageError for an invalid verdict.
    """
    _require(connection, chosen)
    found = _rows(connection, chosen, after, most + 1)
    return ComparedLines(found[:most], _end(found[most - 1]) if len(found) > most else None)


def of_days(
    connection: sa.Connection, chosen: ComparedFilter, from_ms: int, to_ms: int, most: int = MOST_DIFFERING
) -> list[Compared]:
    """Return the comparisons of days in [from_ms, to_ms), those that differ first.

    The result has comparisons with any verdict, because `chosen.verdict` is only validated. Errors: UnknownId for an
    unknown organisation or provider; UsageError for an invalid verdict.
    """
    _require(connection, chosen)
    values = {"provider": chosen.provider, "org_id": chosen.org, "from_ms": from_ms, "to_ms": to_ms, "at_most": most}
    return [Compared(**row._mapping) for row in SQL.run(connection, "of_days", values)]


def every(connection: sa.Connection, chosen: ComparedFilter) -> Iterator[Compared]:
    """Yield all comparisons that a filter finds, in the order of pages.

    Errors: UnknownId for an unknown organisation or provider; UsageError for an invalid verdict.
    """
    _require(connection, chosen)
    after: After | None = None
    while rows := _rows(connection, chosen, after, MOST_LINES_AT_ONCE):
        yield from rows
        after = _end(rows[-1])


def runs(connection: sa.Connection) -> list[ComparedAt]:
    """Return the latest runs of comparisons, each with its numbers of comparisons.

    An organisation's feature on a day counts only in the run of its last comparison.
    """
    rows = SQL.run(connection, "runs", {"at_most": MOST_RUNS, "counted": MOST_COUNTED})
    return [ComparedAt(int(row.at_ms), int(row.lines), int(row.differing)) for row in rows]


def list_unacknowledged(connection: sa.Connection) -> list[UnacknowledgedDifference]:
    """Return unacknowledged reports on balances, newest first."""
    return [UnacknowledgedDifference(**row._mapping) for row in SQL.run(connection, "told", {"at_most": MOST_TOLD})]


def _require(connection: sa.Connection, chosen: ComparedFilter) -> None:
    if chosen.provider:
        ids.require(connection, ids.PROVIDER, chosen.provider)
    if chosen.org:
        require_org(connection, chosen.org)
    if chosen.verdict not in ("", *VERDICTS):
        raise UsageError(f"invalid verdict {quote_value(chosen.verdict)}: expected {', '.join(VERDICTS)}")


def _rows(connection: sa.Connection, chosen: ComparedFilter, after: After | None, most: int) -> list[Compared]:
    verdicts = [chosen.verdict] if chosen.verdict else list(VERDICTS)
    values: dict[str, object] = {"provider": chosen.provider, "org_id": chosen.org, "verdicts": verdicts}
    if after is not None:
        names = ("after_day_ms", "after_org", "after_provider", "after_customer", "after_feature")
        values |= dict(zip(names, astuple(after), strict=True))
    behind = "from_the_start" if after is None else "from_there"
    rows = SQL.run(connection, "page", {**values, "at_most": most}, behind=behind)
    return [Compared(**row._mapping) for row in rows]


def _end(line: Compared) -> After:
    return After(line.day_ms, line.org_id, line.provider, line.customer_id, line.feature)


LATE_AFTER_MS: Final = 2 * DAY_MS
"""Milliseconds after which the last comparison with a billing provider is late."""


@dataclass(frozen=True)
class Uncompared:
    """The missing comparisons with a provider.

    `compared_ms`: the end of the time that was compared as a whole (None: never). `open_days`: the number of open days
    of customers. `open_since_ms`: the first of these days (None: `open_days` is 0). `said`: the customer and the reason
    of one of these days. `is_late`: True if the provider bills an organisation, and `compared_ms` is more than
    LATE_AFTER_MS ago. Times are in milliseconds.
    """

    provider: str
    compared_ms: int | None
    open_days: int
    open_since_ms: int | None
    said: str
    is_late: bool
    for_person: int = 0
    """Customers that later runs cannot compare until a person acts, because they were deleted at the provider.
    `said_to_person`: one of them and the reason.
    """
    said_to_person: str = ""
    balances: int = 0
    """Customers with a balance that the last run did not compare. `balances_since_ms`: when a run first left out the
    balance of one of them (None: `balances` is 0). `said_of_balance`: one of them and the reason.
    """
    balances_since_ms: int | None = None
    said_of_balance: str = ""

    def lacks_balances(self, now_ms: int) -> bool:
        """Return True if a balance was not compared for LATE_AFTER_MS."""
        return self.balances_since_ms is not None and self.balances_since_ms < now_ms - LATE_AFTER_MS


def uncompared_part(now_ms: int) -> Part:
    """Return the query of missing comparisons, with a row for each compared provider."""
    return SQL.part("uncompared", {"late_ms": now_ms - LATE_AFTER_MS, "needs_you": f"{NEEDS_YOU}%"})


def uncompared_of(rows: list[object]) -> list[Uncompared]:
    """Return missing comparisons from rows of `uncompared_part`."""
    found = []
    for row in rows:
        its = vars(row)
        counts = {name: int(its[name]) for name in ("open_days", "for_person", "balances")}
        said = its["said_to_person"].replace(NEEDS_YOU, "", 1)
        found.append(Uncompared(**{**its, **counts, "said_to_person": said, "is_late": bool(its["is_late"])}))
    return found


def read_uncompared(connection: sa.Connection, now_ms: int) -> list[Uncompared]:
    """Read the missing comparisons with all providers."""
    return uncompared_of(read_together(connection, found=uncompared_part(now_ms))["found"])
