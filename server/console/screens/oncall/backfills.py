"""Show backfills, and the usage that Drawdown would bill if you close a backfill.

A backfill adds past events. A person closes it with the hash of the shown comparison, or reverts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.usage.backfill_actions import MOST_COMPARED
from drawdown.worker.usage.backfills import BackfillRow, Diff, diff, list_backfills, open_backfills, show_backfill

PATH: Final = "/console/backfills"
TOO_MANY: Final = (
    "The backfill is too large to compare on this page. To see its charges on close, run `drawdown backfill show`."
)
MOST_LISTED: Final = 100
"""Latest backfills on the page. Find older backfills by organisation."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org = ask.text("org")
    found = list_backfills(connection, org_id=org, most=MOST_LISTED)
    going = open_backfills(connection)
    rows = [
        (
            Cell(one.backfill, "id", href=url("/console/backfill", key=one.backfill)),
            cells_of.org(one.org_id),
            cells_of.state(one.state),
            cells_of.time(one.from_ms, narrow=False),
            cells_of.time(one.to_ms, narrow=False),
            cells_of.number(one.events),
            cells_of.number(one.withdrawn, narrow=False),
            Cell(one.actor, "id", narrow=False),
        )
        for one in found
    ]
    since = (
        "none open"
        if going.since_ms is None
        else f"the oldest {figures.time(going.since_ms)}, {figures.ago(going.since_ms, ask.now_ms)}"
    )
    heads = ("Backfill", "Organisation", "State", "From, UTC", "To, UTC", "#Events", "#Withdrawn", "Actor")
    none = "No backfill exists yet." if not org else "This organisation has no backfill."
    command = (
        f"drawdown backfill list{f' --org {quote(org)}' if org else ''}"
        if rows or org
        else "drawdown backfill open june --org acme --from 2026-06-01 --to 2026-07-01"
    )
    note = f"This table shows the latest {MOST_LISTED:,} backfills." if len(rows) == MOST_LISTED else ""
    tiles = [Tile("Open backfills", figures.count(going.count), since, "warn" if going.count else "")]
    filters = (Filter("org", "Organisation", org),)
    table = Table("Backfills, the latest first", heads, rows, none, command, note=note)
    return to_context(PageContent(PATH, [table], tiles=tiles, filters=filters, query={"org": org} if org else {}))


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    """Return the page of a backfill.

    If it is open and has at most MOST_COMPARED events, the page has the usage that Drawdown would bill if you close it.
    """
    name = ask.required("key")
    found = show_backfill(connection, name)
    would = diff(connection, name) if found.state == "open" and found.events <= MOST_COMPARED else None
    tables = [] if would is None else [_usage_table(would), _counts(would)]
    page = PageContent(
        "/console/backfill",
        [*tables, _facts(found, would)],
        tiles=_tiles(found, would),
        acts=_acts(found, would),
        query={"key": name},
        above=Link("Backfills", PATH),
        note=TOO_MANY if found.state == "open" and would is None else "",
        heading=name,
    )
    return to_context(page)


def _acts(found: BackfillRow, would: Diff | None) -> list[Link]:
    name = found.backfill
    close = [] if would is None else [act("Close", "backfill-close", backfill=name, hash=would.hash)]
    return [*close, *([] if found.state == "reverted" else [act("Revert", "backfill-revert", backfill=name)])]


def _tiles(found: BackfillRow, would: Diff | None) -> list[Tile]:
    tiles = [
        Tile("State", found.state, f"since {figures.time(found.reverted_ms or found.closed_ms or found.at_ms)}",
             cells_of.TONES.get(found.state, "")),
        Tile("Events", figures.count(found.events), f"{found.withdrawn:,} of them withdrawn"),
    ]  # fmt: skip
    if would is not None:
        tiles.append(Tile("Charge on close", figures.credits(would.price_micro), "credits, by the rate card"))
    return tiles


def _usage_table(would: Diff) -> Table:
    rows = [
        (
            Cell(one.what, "id"),
            Cell(one.provider or figures.UNKNOWN, "id"),
            cells_of.number(one.events),
            cells_of.number(one.quantity),
            cells_of.number(one.windows, narrow=False),
            Cell(figures.UNKNOWN if one.code else figures.exact(one.price_micro), "number"),
            Cell(f"waits: {one.code}" if one.code else "not billed: exempt" if one.is_exempt else "billed"),
        )
        for one in would.lines
    ]
    heads = ("Feature or type", "Provider", "#Events", "#Quantity", "#Windows", "#Credits", "Outcome")
    none = "Closing the backfill would not bill new usage."
    command = f"drawdown backfill close {typed(would.backfill.backfill, '--hash', would.hash)}"
    return Table("Charges on close", heads, rows, none, command)


def _counts(would: Diff) -> Table:
    rows = [(Cell(name.replace("_", " ")), cells_of.number(count)) for name, count in sorted(would.counts.items())]
    heads, none = ("State", "#Events"), "No event is staged yet."
    return Table(
        "Staged events", heads, rows, none, f"drawdown backfill stage {typed(would.backfill.backfill, 'events.jsonl')}"
    )


def _facts(found: BackfillRow, would: Diff | None) -> Table:
    facts = [
        ("Organisation", cells_of.org(found.org_id)),
        ("Events from, UTC", cells_of.time(found.from_ms)),
        ("Events until, UTC", cells_of.time(found.to_ms)),
        ("Opened, UTC", cells_of.time(found.at_ms)),
        ("Closed, UTC", cells_of.time(found.closed_ms)),
        ("Reverted, UTC", cells_of.time(found.reverted_ms)),
        ("Hash of the comparison", Cell(found.diff_hash or (would.hash if would else figures.UNKNOWN), "id")),
        ("Opened by", Cell(f"{found.actor}: {found.reason}", "id")),
    ]
    rows = [(Cell(name), value) for name, value in facts]
    return Table("Details", ("Field", "Value"), rows, "", f"drawdown backfill show {typed(found.backfill)}")
