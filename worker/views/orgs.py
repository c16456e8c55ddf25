"""Lists of organisations: by filters, sorted, a page at a time. Reads only.

Guarantee: a page has at most MAX_ROWS rows, and goes on after the last row of the page before it, so that rows which
come or change meanwhile are neither shown twice nor shift the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.errors import UsageError

MAX_ROWS: Final = 10_000

# How each order reads: the value that is compared, and which way. Whoever has no value comes last.
SORTS: Final = {
    "name": ("o.org_id", "ASC"),
    "balance": ("COALESCE(o.balance_micro, 9223372036854775807)", "ASC"),
    "halted": ("COALESCE(o.halted_at, -1)", "DESC"),
    "plan": ("COALESCE(o.\"plan\", '')", "ASC"),
}


@dataclass(frozen=True)
class OrgFilter:
    """Which organisations: `search` is a part of the id. Empty: any."""

    provider: str = ""
    plan: str = ""
    search: str = ""
    halted: bool = False
    unassigned: bool = False


@dataclass(frozen=True)
class OrgRow:
    """An organisation in a list. Money in millionths of its provider's credits, as last read."""

    org_id: str
    billing_provider: str | None
    plan: str | None
    is_halted: bool
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    balance_micro: int | None
    stopped_reason: str | None


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


_WHERE: Final = """
(:provider = '' OR o.billing_provider = :provider) AND (:plan = '' OR o."plan" = :plan)
    AND (:search = '' OR o.org_id LIKE :like ESCAPE '!') AND (:halted = 0 OR o.is_halted)
    AND (:unassigned = 0 OR NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id))
"""
_LIST: Final = """
SELECT o.org_id, o.billing_provider, o."plan", o.is_halted, o.halt_reason, o.max_concurrent_sandboxes, o.balance_micro,
    o.stopped_reason FROM orgs o WHERE {where} AND {later} ORDER BY {value} {way}, o.org_id {way} LIMIT :most
"""
# The row that the page before ended with; where it has another value by now, the page goes on by that one.
_LATER: Final = (
    "(:after = '' OR ({value}, o.org_id) {beyond} "
    "((SELECT {other} FROM orgs x WHERE x.org_id = :after), CAST(:after AS TEXT)))"
)
_SCHEDULED: Final = """
SELECT a.org_id, o.billing_provider, a.provider, a.customer_id, a.start_ms, a.actor, a.reason
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
WHERE a.start_ms > :now AND (:provider = '' OR a.provider = :provider) ORDER BY a.start_ms, a.org_id LIMIT :most
"""


def list_orgs(
    connection: sa.Connection, chosen: OrgFilter, *, sort: str = "name", after: str = "", most: int = 100
) -> OrgPage:
    """One page. `after` is the last organisation of the page before.

    Errors: UsageError for an order there is not, or more rows than MAX_ROWS.
    """
    if sort not in SORTS:
        raise UsageError(f"--sort {sort!r}: there is {', '.join(SORTS)}")
    if not 0 < most <= MAX_ROWS:
        raise UsageError(f"a page has 1 to {MAX_ROWS:,} rows; `--after` goes on")
    value, way = SORTS[sort]
    later = _LATER.format(value=value, other=value.replace("o.", "x."), beyond=">" if way == "ASC" else "<")
    text = _LIST.format(where=_WHERE, later=later, value=value, way=way)
    rows = connection.execute(sa.text(text), {**_values(chosen), "after": after, "most": most + 1}).all()
    found = [OrgRow(**{**row._mapping, "is_halted": bool(row.is_halted)}) for row in rows]
    return OrgPage(found[:most], found[most - 1].org_id if len(found) > most else None)


def chosen_orgs(connection: sa.Connection, chosen: OrgFilter, most: int) -> list[str]:
    """The ids of all that a filter finds, in their order.

    Errors: UsageError where they are more than `most`.
    """
    text = f"SELECT o.org_id FROM orgs o WHERE {_WHERE} ORDER BY o.org_id LIMIT :most"
    found = connection.execute(sa.text(text), {**_values(chosen), "most": most + 1}).scalars().all()
    if len(found) > most:
        raise UsageError(f"these are more than {most:,} organisations: choose fewer")
    return [str(org) for org in found]


def scheduled_flips(connection: sa.Connection, provider: str, now_ms: int, most: int) -> list[ScheduledFlip]:
    """The flips that are still to come, the next one first."""
    values = {"now": now_ms, "provider": provider, "most": min(most, MAX_ROWS)}
    return [ScheduledFlip(**row._mapping) for row in connection.execute(sa.text(_SCHEDULED), values)]


def _values(chosen: OrgFilter) -> dict[str, Any]:
    part = chosen.search.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return {
        "provider": chosen.provider,
        "plan": chosen.plan,
        "search": chosen.search,
        "like": f"%{part}%",
        "halted": int(chosen.halted),
        "unassigned": int(chosen.unassigned),
    }
