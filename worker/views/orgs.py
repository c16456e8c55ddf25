"""Lists of organisations: by filters, sorted, a page at a time. Reads only.

Guarantee: a page has at most MAX_ROWS rows, and goes on after the last row of the page before it, so that rows which
come or change meanwhile are neither shown twice nor shift the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.worker.views.left_now import Left, left_of

MAX_ROWS: Final = 10_000

SORTS: Final = {
    "name": "ascending",
    "balance": "ascending",
    "halted": "descending",
    "plan": "ascending",
    "end": "ascending",
}
"""By what a list may be sorted, and which way."""
SQL = queries(__file__)


@dataclass(frozen=True)
class OrgFilter:
    """Which organisations: `search` is a part of the id; `runs_out_by_ms`: the watch last estimated that their credit
    ends by then. Empty: any."""

    provider: str = ""
    plan: str = ""
    search: str = ""
    halted: bool = False
    unassigned: bool = False
    runs_out_by_ms: int | None = None
    overridden: bool = False
    """An operator's word stands in place of the provider's: no halt, or another number at once."""


@dataclass(frozen=True)
class OrgRow:
    """An organisation in a list. Money in millionths of its provider's credits: `balance_micro` as last read;
    `left_now_micro` to `runs_out_ms`: as `left_now.Left`."""

    org_id: str
    billing_provider: str | None
    plan: str | None
    is_halted: bool
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    balance_micro: int | None
    stopped_reason: str | None
    override_halted: bool | None
    override_max_concurrent: int | None
    override_until_ms: int | None
    left_now_micro: int | None
    used_a_minute_micro: int | None
    runs_out_ms: int | None


@dataclass(frozen=True)
class OrgPage:
    """`next_after`: where the next page begins; None where there is no more."""

    orgs: list[OrgRow]
    next_after: str | None


@dataclass(frozen=True)
class ScheduledFlip:
    """An assignment that begins later."""

    org_id: str
    billing_provider: str | None
    provider: str
    customer_id: str
    start_ms: int
    actor: str
    reason: str


def list_orgs(
    connection: sa.Connection, chosen: OrgFilter, now_ms: int, *, sort: str = "name", after: str = "", most: int = 100
) -> OrgPage:
    """One page. `after` is the last organisation of the page before.

    Errors: UsageError for an order there is not, or more rows than MAX_ROWS.
    """
    if sort not in SORTS:
        raise UsageError(f"--sort {sort!r}: there is {', '.join(SORTS)}")
    if not 0 < most <= MAX_ROWS:
        raise UsageError(f"a page has 1 to {MAX_ROWS:,} rows; `--after` goes on")
    way = SORTS[sort]
    values = {**_values(chosen, now_ms), "after_org_id": after, "at_most": most + 1}
    ending = "any_end" if chosen.runs_out_by_ms is None else "ends_by"
    slots = {"value": f"by_{sort}", "order": way, "later": f"after_{way}", "ending": ending}
    rows = SQL.run(connection, "list", values, **slots).all()
    left = left_of(connection, rows[:most], now_ms)
    found = [_row(row, one) for row, one in zip(rows[:most], left, strict=True)]
    return OrgPage(found, found[-1].org_id if len(rows) > most else None)


def _row(row: sa.Row[Any], left: Left) -> OrgRow:
    own = {name: value for name, value in row._mapping.items() if name not in ("balance_read_ms", "unseen_micro")}
    word = None if row.override_halted is None else bool(row.override_halted)
    return OrgRow(**{**own, **left._asdict(), "is_halted": bool(row.is_halted), "override_halted": word})


@dataclass(frozen=True)
class NeverHalted:
    """How many an operator's word keeps from being halted, and the first of them, each with when that ends."""

    orgs: int
    first: list[tuple[str, int | None]]


def never_halted(connection: sa.Connection, now_ms: int, most: int) -> NeverHalted:
    """Whom no empty balance halts, since somebody said so."""
    rows = SQL.run(connection, "never_halted", {"now_ms": now_ms, "at_most": most}).all()
    return NeverHalted(int(rows[0].orgs) if rows else 0, [(row.org_id, row.until_ms) for row in rows])


def chosen_orgs(connection: sa.Connection, chosen: OrgFilter, most: int, now_ms: int) -> list[str]:
    """The ids of all that a filter finds, in their order.

    Errors: UsageError where they are more than `most`.
    """
    ending = "any_end" if chosen.runs_out_by_ms is None else "ends_by"
    found = SQL.run(connection, "ids", {**_values(chosen, now_ms), "at_most": most + 1}, ending=ending).scalars().all()
    if len(found) > most:
        raise UsageError(f"these are more than {most:,} organisations: choose fewer")
    return [str(org) for org in found]


def scheduled_flips(connection: sa.Connection, provider: str, now_ms: int, most: int) -> list[ScheduledFlip]:
    """The flips that are still to come, the next one first."""
    values = {"now_ms": now_ms, "provider": provider, "at_most": min(most, MAX_ROWS)}
    return [ScheduledFlip(**row._mapping) for row in SQL.run(connection, "scheduled_flips", values)]


def _values(chosen: OrgFilter, now_ms: int) -> dict[str, object]:
    part = chosen.search.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return {
        "provider": chosen.provider,
        "plan": chosen.plan,
        "search": chosen.search,
        "like": f"%{part}%",
        "halted": int(chosen.halted),
        "unassigned": int(chosen.unassigned),
        "runs_out_by_ms": chosen.runs_out_by_ms,
        "overridden": int(chosen.overridden),
        "now_ms": now_ms,
    }
