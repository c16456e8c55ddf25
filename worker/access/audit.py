"""List the recorded actions of people and programs.

An entry has the actor, time, reason, object and channel. This module only reads.

Guarantee: the size of a page is bounded, and the newest action comes first. If a filter has an unknown name, the call
fails. So an empty list without a next page proves that a matching action does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import HASHED, Head, hash_after
from drawdown.schema.declare import ID, KEY, TIME, Column, Listing, Look, Page
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import require_range, show_time

MAX_ROWS: Final = 10_000
"""Most rows on one page of the audit."""
VIAS: Final = ("cli", "cli --at", "console", "my", "http", "webhook", "program", "unknown")
"""The channels through which people and programs act.

`program`: a program that calls Drawdown's functions directly. `unknown`: the action is older than the record of
channels.
"""
SQL = queries(__file__)


@dataclass(frozen=True)
class AuditFilter:
    """A filter of actions. An empty field matches any action.

    `target`: the changed object, such as an organisation, a customer or a push. `via`: the channel. `from_ms`, `to_ms`:
    the range of times, [from_ms, to_ms), in milliseconds.
    """

    actor: str = ""
    action: str = ""
    target: str = ""
    via: str = ""
    from_ms: int = 0
    to_ms: int = 2**53


@dataclass(frozen=True)
class AuditEntry:
    """A recorded action of a user or program.

    `details`: the new values and the values that they replaced. `via`: the channel, one of VIAS. `target`: the changed
    object. `at_ms`: the time, in milliseconds.
    """

    action_id: int
    at_ms: int
    action: str
    target: str
    details: dict[str, object]
    actor: str
    reason: str
    via: str


@dataclass(frozen=True)
class AuditPage:
    """A page of actions.

    `next_before`: the start of the next, older page (None: this is the last page).
    """

    actions: list[AuditEntry]
    next_before: int | None


def list_audit(
    connection: sa.Connection, chosen: AuditFilter, *, before: int = 0, most: int = 100, within: int | None = None
) -> AuditPage:
    """Return a page of actions.

    `before`: the `next_before` of the page before (0: begin at the newest action).

    `within`: the number of actions to read if the filter does not fit an index. A page may then be short or empty, and
    still have a next page.

    Errors: UsageError for a page size outside 1 to MAX_ROWS. UnknownId for an actor, action or target that never
    occurred, or an unknown channel.
    """
    if not 0 < most <= MAX_ROWS:
        raise UsageError(
            f"invalid page size {most}: expected 1 to {MAX_ROWS:,} rows. For the next page, pass `--after`"
        )
    if chosen.via:
        ids.require_among(ids.VIA, chosen.via, VIAS)
    for kind, given in ((ids.ACTOR, chosen.actor), (ids.ACTION, chosen.action), (ids.TARGET, chosen.target)):
        if given:
            ids.require(connection, kind, given)
    floor = 0 if within is None else _floor(connection, chosen, before, within)
    values = {
        "before_id": before,
        "floor_id": floor,
        "from_ms": chosen.from_ms,
        "to_ms": chosen.to_ms,
        "actor": chosen.actor,
        "action": chosen.action,
        "target": chosen.target,
        "via": chosen.via,
        "at_most": most + 1,
    }
    rows = SQL.run(connection, "list", values)
    found = [AuditEntry(**{**row._mapping, "details": json.loads(row.details)}) for row in rows]
    if len(found) > most:
        return AuditPage(found[:most], found[most - 1].action_id)
    return AuditPage(found, floor if floor > 1 else None)


def _floor(connection: sa.Connection, chosen: AuditFilter, before: int, within: int) -> int:
    """Return the lowest action number to read; 0 if an index fits the filter."""
    if chosen.target or chosen == AuditFilter():
        return 0
    newest = before or SQL.run(connection, "newest_id").scalar() or 0
    return max(int(newest) - within, 0)


def unchained(connection: sa.Connection, actions: Sequence[AuditEntry]) -> list[int]:
    """Return the ids of the actions with a hash that breaks the hash chain.

    `schema.audit` defines the hash.
    """
    rows = SQL.run(connection, "with_those_before", {"ids": [one.action_id for one in actions]}).mappings()
    return [
        int(row["action_id"])
        for row in rows
        if row["hash"] != hash_after(str(row["hash_before"]), {name: row[name] for name in HASHED})
    ]


def is_cut(connection: sa.Connection, chain: Head) -> bool:
    """Return True if the newest recorded action is not the last action of `chain`."""
    newest = SQL.run(connection, "newest_hash").scalar()
    return (newest or "") != chain.hash


def _short(deed: AuditEntry) -> str:
    """Return the details of an action on one line, at most 200 characters."""
    told = {name: value for name, value in deed.details.items() if value is not None}
    return ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in told.items())[:200]


def _list(
    connection: sa.Connection,
    look: Look,
    *,
    actor: Annotated[str, ID, "Name of the person or program that acted"] = "",
    action: Annotated[str, ID, "Name of the action, such as org_halt"] = "",
    target: Annotated[str, KEY, "Organisation, customer, feature, push or other object that changed"] = "",
    via: Annotated[str, ID, f"Channel: {', '.join(VIAS)}"] = "",
    from_ms: Annotated[int | None, TIME, "Start of the range"] = None,
    to_ms: Annotated[int | None, TIME, "End of the range"] = None,
) -> Page[AuditEntry]:
    if look.after and not (look.after.isascii() and look.after.isdigit() and len(look.after) <= 18):
        raise UsageError(
            f"invalid `after` {quote_value(look.after)}: expected the `next` of a page. Start at the first page",
            at="after",
        )
    if from_ms is not None and from_ms > look.now_ms:
        raise UsageError(f"--from is in the future, at {show_time(from_ms)}. For two days ago, pass 2d", at="from_ms")
    require_range(from_ms, to_ms)
    chosen = AuditFilter(actor, action, target, via, from_ms or 0, 2**53 if to_ms is None else to_ms)
    page = list_audit(connection, chosen, before=int(look.after or 0), most=look.most)
    return Page(page.actions, None if page.next_before is None else str(page.next_before))


LISTS: Final = (
    Listing(
        "audit list",
        "Actions",
        "List changes by people and programs, newest first. Each change shows time, actor, action, reason and "
        "channel.",
        _list,
        (Column("action_id", "#"), Column("at_ms", "at"), "actor", Column("via", "channel"),
         "action", "target", "reason",
         Column("details", of_row=_short)),
        holds="actions",
        path="/v1/audit",
        scope="keys:read",
        paged=True,
    ),
)  # fmt: skip
