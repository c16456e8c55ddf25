"""Show the audit log, and check the chain of the shown rows.

Each change has its actor, target, reason and channel.

Guarantee: the figures equal those of `drawdown audit list`. Each request checks each shown row against the hash of the
row before. `drawdown verify` proves the whole chain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import head
from drawdown.schema.text import counted
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, PageContent, Table, Tile, to_context
from drawdown.server.console.frame.templates import command, url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.rules.cells import short, text_cell, time
from drawdown.worker.access import audit as views
from drawdown.worker.access.audit import VIAS, AuditEntry, AuditFilter, list_audit
from drawdown.worker.checks import proofs

PATH: Final = "/console/audit"
PAGE_ACTIONS: Final = 100
FILE_ACTIONS: Final = 1_000
"""Actions of a file that Drawdown reads into memory at a time."""
MOST_LOOKED_THROUGH: Final = 50_000
"""Actions that one page searches for matches of a filter."""
MOST_DETAIL_CHARS: Final = 200
"""Characters of an action's details on a page."""
YEAR_2000_MS: Final = 946_684_800_000
"""The start of the year 2000.

The page shows a smaller number of milliseconds as a duration, not as a time.
"""
EVER_MS: Final = 2**53
CHAINED: Final = 6
"""Number of the invariant that covers the chain."""
COLUMNS: Final = ("at", "actor", "via", "action", "target", "reason", "details", "number")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen, before = _chosen(ask), ask.place("before")
    page = list_audit(connection, chosen, before=before, most=PAGE_ACTIONS, within=MOST_LOOKED_THROUGH)
    wrong = set(views.unchained(connection, page.actions))
    given = {name: ask.query.get(name) for name in ("actor", "action", "target", "via", "from", "to")}
    filters = (
        Filter("actor", "Actor", chosen.actor),
        Filter("action", "Action", chosen.action),
        Filter("target", "Target", chosen.target),
        Filter("via", "Channel", chosen.via, [("", "any"), *((one, one) for one in VIAS)]),
        Filter("from", "From, UTC", ask.query.get("from", "")),
        Filter("to", "To, UTC", ask.query.get("to", "")),
    )
    next_ = url(PATH, **given, before=page.next_before) if page.next_before is not None else ""
    table = _table(page.actions, wrong, next_, _command(given), url(PATH, **given) if before else "")
    tiles = _tiles(connection, page.actions, wrong, ask.now_ms, newest=not before and chosen == AuditFilter())
    return to_context(
        PageContent(
            PATH, [table], tiles, filters, query={**given, "before": before or None}, file=url(f"{PATH}.csv", **given)
        )
    )


def _chosen(ask: Ask) -> AuditFilter:
    """Return the filter.

    Errors: UsageError for an invalid time, name or channel.
    """
    via = ask.choice("via", ("", *VIAS))
    return AuditFilter(
        ask.text("actor"),
        ask.text("action"),
        ask.text("target"),
        via,
        ask.moment("from") or 0,
        ask.moment("to") or EVER_MS,
    )


def _tiles(
    connection: sa.Connection, actions: Sequence[AuditEntry], wrong: set[int], now_ms: int, *, newest: bool
) -> list[Tile]:
    chain = head(connection)
    proven = next(one.held_ms for one in proofs.standing(connection) if one.invariant == CHAINED)
    day, _, hour = figures.time(proven).partition(" ")
    broken = bool(wrong) or (newest and views.is_cut(connection, chain))
    return [
        Tile("Recorded actions", figures.count(chain.actions), "each chained to the previous action"),
        Tile(
            "Actions shown",
            "broken" if broken else "whole" if actions else figures.UNKNOWN,
            f"{counted(len(actions), 'row')} against the chain, now",
            "bad" if broken else "",
        ),
        Tile(
            "Last full chain proof",
            hour or day,
            f"{day}, {figures.ago(proven, now_ms)}" if proven else "drawdown verify",
            "" if proven else "warn",
        ),
        Tile("Newest hash", short(chain.hash), "copy it elsewhere to detect a replaced log"),
    ]


def _table(actions: Sequence[AuditEntry], wrong: set[int], next_: str, command: str, first: str) -> Table:
    rows = [
        (time(one.at_ms), replace(text_cell(one.actor), under=f"by {one.via}"), _what(one, wrong), _target(one),
         replace(text_cell(one.reason), under=details_of(one)),
         Cell(str(one.action_id), "number", narrow=False))
        for one in actions
    ]  # fmt: skip
    heads = ("Time, UTC", "Actor", "Action", "Target", "Reason and details", "#Number")
    none = "No searched action matches the filter." if next_ else "No such action exists."
    note = "The next page looks further back." if next_ and not rows else ""
    return Table("Changes, the newest first", heads, rows, none, command, next_, note, first=first)


def _what(one: AuditEntry, wrong: set[int]) -> Cell:
    words = one.action.replace("_", " ")
    return Cell(f"{words}: differs from the record", "state", "bad") if one.action_id in wrong else Cell(words)


def _target(one: AuditEntry) -> Cell:
    """Return the cell of a target. It links to an organisation or a push."""
    if one.action.startswith("org_"):
        return Cell(one.target, "id", href=url("/console/org", id=one.target, tab="audit"))
    if one.action.startswith("push_"):
        return Cell(one.target, "id", href=url("/console/push", key=one.target))
    return text_cell(one.target)


def details_of(one: AuditEntry) -> str:
    """Return the details of an action on one line."""
    told = [_detail(name, value) for name, value in one.details.items() if value is not None]
    return ", ".join(told)[:MOST_DETAIL_CHARS]


def _detail(name: str, value: object) -> str:
    """Return a detail for people.

    Times are in UTC, amounts in credits, and nested parts have their names.
    """
    words = name.removesuffix("_ms").removesuffix("_micro").replace("_", " ")
    if isinstance(value, Mapping):
        parts = [_detail(part, of_part) for part, of_part in value.items() if of_part is not None]
        return f"{words}: {', '.join(parts) or 'nothing'}"
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("_ms") and value >= YEAR_2000_MS:
            return f"{words} {figures.time(value)}"
        if name.endswith("_micro"):
            return f"{words} {figures.exact(value)} credits"
        return f"{name.replace('_', ' ')} {figures.count(value)}"
    return f"{words} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def _command(given: Mapping[str, object]) -> str:
    options = [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
    return command("audit", "list", *options)


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the actions of the filter, newest first."""
    chosen, before = _chosen(ask), ask.place("before")
    yield csv_line(COLUMNS)
    while True:
        page = list_audit(connection, chosen, before=before, most=FILE_ACTIONS)
        for one in page.actions:
            told = json.dumps(one.details, ensure_ascii=False, sort_keys=True)
            texts = (figures.iso(one.at_ms), one.actor, one.via, one.action, one.target, one.reason, told)
            yield csv_line(texts, (one.action_id,))
        if page.next_before is None:
            return
        before = page.next_before
