"""Backfills: events of the past that wait for a person's word; one of them, with what closing it would bill; and the
word itself: it is closed, by the hash of what it showed, or taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import Fact
from drawdown.schema.errors import Refused
from drawdown.schema.text import typed
from drawdown.server.console.action import Action, Doing, Done, Field
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import BackfillRow, Diff, diff, list_backfills, open_backfills, show_backfill
from drawdown.worker.usage.withdrawals import judge_backfill, worth_of_backfill
from drawdown.worker.verdict.rates import size_of

PATH: Final = "/console/backfills"
MOST_COMPARED: Final = 10_000
"""Events of one that is open: more are compared by the command line alone, which has no time to keep."""
TOO_MANY: Final = (
    "It holds too much to compare while a page waits: drawdown backfill show says what closing would bill."
)
MOST_LISTED: Final = 100
"""The latest; older ones by their organisation."""


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
        "none waits"
        if going.since_ms is None
        else f"the oldest {figures.time(going.since_ms)}, {figures.ago(going.since_ms, ask.now_ms)}"
    )
    heads = ("Backfill", "Organisation", "State", "From, UTC", "To, UTC", "#Events", "#Withdrawn", "By")
    none = "No event of the past was ever staged." if not org else "It has none."
    command = (
        f"drawdown backfill list{f' --org {quote(org)}' if org else ''}"
        if rows or org
        else "drawdown backfill open june --org acme --from 2026-06-01 --to 2026-07-01"
    )
    note = f"The latest {MOST_LISTED:,}." if len(rows) == MOST_LISTED else ""
    tiles = [Tile("Open", figures.count(going.count), since, "warn" if going.count else "")]
    filters = (Filter("org", "Organisation", org),)
    table = Table("Backfills, the latest first", heads, rows, none, command, note=note)
    return shown(Shown(PATH, [table], tiles=tiles, filters=filters, query={"org": org} if org else {}))


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    """One of them; while it is open, what closing it would bill now."""
    name = ask.required("key")
    found = show_backfill(connection, name)
    would = diff(connection, name) if found.state == "open" and found.events <= MOST_COMPARED else None
    tables = [] if would is None else [_lines(would), _counts(would)]
    page = Shown(
        "/console/backfill",
        [*tables, _facts(found, would)],
        tiles=_tiles(found, would),
        acts=_acts(found, would),
        query={"key": name},
        above=Link("Backfills", PATH),
        said="" if found.events <= MOST_COMPARED else TOO_MANY,
        heading=name,
    )
    return shown(page)


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
        tiles.append(Tile("Closing would bill", figures.credits(would.price_micro), "credits, by our rate card"))
    return tiles


def _lines(would: Diff) -> Table:
    rows = [
        (
            Cell(one.what, "id"),
            Cell(one.provider or figures.UNKNOWN, "id"),
            cells_of.number(one.events),
            cells_of.number(one.quantity),
            cells_of.number(one.windows, narrow=False),
            Cell(figures.UNKNOWN if one.code else figures.exact(one.price_micro), "number"),
            Cell(f"waits: {one.code}" if one.code else "billed"),
        )
        for one in would.lines
    ]
    heads = ("Feature, or event type", "Provider", "#Events", "#Quantity", "#Windows", "#Credits", "What becomes of it")
    none = "Nothing of it would be used anew."
    command = f"drawdown backfill close {typed(would.backfill.backfill, '--hash', would.hash)}"
    return Table("What closing would bill", heads, rows, none, command)


def _counts(would: Diff) -> Table:
    rows = [(Cell(name.replace("_", " ")), cells_of.number(count)) for name, count in sorted(would.counts.items())]
    heads, none = ("Events that are", "#Events"), "Nothing is staged yet."
    return Table(
        "What is staged", heads, rows, none, f"drawdown backfill stage {typed(would.backfill.backfill, 'events.jsonl')}"
    )


def _facts(found: BackfillRow, would: Diff | None) -> Table:
    facts = [
        ("Organisation", cells_of.org(found.org_id)),
        ("Of events used from, UTC", cells_of.time(found.from_ms)),
        ("Until, UTC", cells_of.time(found.to_ms)),
        ("Opened, UTC", cells_of.time(found.at_ms)),
        ("Closed, UTC", cells_of.time(found.closed_ms)),
        ("Reverted, UTC", cells_of.time(found.reverted_ms)),
        ("Hash of what is shown", Cell(found.diff_hash or (would.hash if would else figures.UNKNOWN), "id")),
        ("By", Cell(f"{found.actor}: {found.reason}", "id")),
    ]
    rows = [(Cell(name), value) for name, value in facts]
    return Table("What is known of it", ("What", "Is"), rows, "", f"drawdown backfill show {typed(found.backfill)}")


MOST_REVERTED: Final = 5_000
"""Events that one form takes back, in one transaction; more by the command line, which goes portion by portion."""


def _backfill(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found = show_backfill(connection, doing.text("backfill"))
    return [
        Fact("State", found.state),
        Fact("Events", figures.count(found.events)),
        Fact("Of them withdrawn", figures.count(found.withdrawn)),
    ]


def _close(connection: sa.Connection, doing: Doing) -> Done:
    name = doing.text("backfill")
    done = backfills.close(connection, name, doing.text("hash"), doing.by)
    was_closed, price = done.backfill.state == "closed", figures.credits(done.price_micro)
    more = "; it was so before" if was_closed else f", {price} credits by our rate card"
    return Done(f"{name}: closed; {show_backfill(connection, name).went_in}{more}")


def _revert(connection: sa.Connection, doing: Doing) -> Done:
    name, done = doing.text("backfill"), False
    if show_backfill(connection, name).events > MOST_REVERTED:
        raise Refused(f"{name} holds more than {MOST_REVERTED:,} events: drawdown backfill revert does it in portions")
    judged = judge_backfill(connection, name)
    while not done:
        _, done = backfills.revert(connection, name, doing.by, judged)
    total = show_backfill(connection, name).withdrawn  # also by a command that was ended half-way
    return Done(f"{name}: reverted; {total:,} events withdrawn, and the next tick gives back what was billed for them")


CLOSE: Final = Action(
    "backfill-close",
    "Close the backfill",
    (Field("backfill", "Backfill"), Field("hash", "Hash of what it showed")),
    _close,
    _backfill,
    lambda doing: ["backfill", "close", doing.text("backfill"), "--hash", doing.text("hash")],
    lambda doing: url("/console/backfill", key=doing.text("backfill")),
    "What was shown becomes usage: the next tick bills it as usage that came late.",
)
REVERT: Final = Action(
    "backfill-revert",
    "Revert the backfill",
    (Field("backfill", "Backfill"),),
    _revert,
    _backfill,
    lambda doing: ["backfill", "revert", doing.text("backfill")],
    lambda doing: url("/console/backfill", key=doing.text("backfill")),
    "All that went in by it is withdrawn, for good. What was never closed is forgotten.",
    size=lambda connection, doing: size_of(worth_of_backfill(connection, doing.text("backfill"))),
)
ACTIONS: Final = (CLOSE, REVERT)
