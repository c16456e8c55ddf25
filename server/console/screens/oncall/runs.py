"""Runs: who holds how much until when; all others, by the same filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import command, url
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.views import runs
from drawdown.worker.views.runs import MOST_LOOKED_AT, OLDER, PHASES, STATES, Chosen, HeldFigures, Holder, RunLine

PATH: Final = "/console/runs"
HEADS: Final = (
    "Accepted, UTC", "Run", "Organisation", "Payer", "State", "#Reserved", "#Drawn", "#Held", "Ends, UTC",
    "Charged by",
)  # fmt: skip
COLUMNS: Final = (
    "run", "org_id", "payer", "project", "subject", "action", "state", "phase", "accepted", "expires", "ended",
    "ended_by", "settled_by", "reserved", "drawn", "held",
)  # fmt: skip
"""What a run drew is entries of the ledger under its name where its receipt charges, and usage where metering does: who
adds up either needs `settled_by`."""
PHASE_WORDS: Final = {"": "any", "waiting": "nothing drawn yet", "drawing": "drawing", "over": "over, not freed yet"}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(ask)
    found = runs.page(connection, chosen, ask.now_ms, ask.key("after"))
    figures_ = runs.held_figures(connection, chosen, ask.now_ms)
    names = ("state", "phase", "older", "org", "payer", "project")
    query = {name: ask.query[name] for name in names if ask.query.get(name)}
    rows = [
        (
            cells_of.time(one.accepted_ms, narrow=False),
            Cell(one.reservation, "id", href=url("/console/run", key=one.reservation), links=_release(one)),
            cells_of.org(one.org_id),
            cells_of.org(one.customer_id, narrow=False)
            if one.customer_id == one.org_id
            else Cell(one.customer_id, "id", narrow=False),
            Cell(one.phase, "state", "warn" if one.phase == "over" else ""),
            cells_of.amount(one.amount_micro, narrow=False),
            cells_of.amount(one.drawn_micro, narrow=False),
            cells_of.amount(one.left_micro),
            cells_of.time(one.ended_ms or one.expires_ms),
            Cell(one.settled_by, narrow=False),
        )
        for one in found.lines
    ]
    listed = Table(
        "Runs, what ends first on top" if chosen.state == "held" and not chosen.org else "Runs, the newest first",
        HEADS,
        rows,
        "No run is like that." if query else "No run holds anything.",
        command("execution", "list", *(word for name, value in _options(chosen) for word in (f"--{name}", value))),
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        note=f"Of {MOST_LOOKED_AT:,} that were looked through; the next page goes on." if found.is_cut else "",
        first=url(PATH, **query) if ask.key("after") else "",
    )
    tables = [listed] if ask.query.get("after") else [listed, _holders(runs.holders(connection, ask.now_ms))]
    page = Shown(
        PATH,
        tables,
        tiles=_tiles(figures_, ask.now_ms),
        filters=_filters(chosen),
        query=query,
        file=url(f"{PATH}.csv", **query),
    )
    return shown(page)


def _release(one: RunLine) -> tuple[Link, ...]:
    return (act("Release", "run-release", run=one.reservation),) if one.state == "held" else ()


def _options(chosen: Chosen) -> list[tuple[str, str]]:
    said = (("older-than", chosen.older), ("org", chosen.org), ("payer", chosen.payer), ("project", chosen.project))
    return [
        *((("state", chosen.state),) if chosen.state != "any" else ()),
        *((name, value) for name, value in said if value),
    ]


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly those of the filter; amounts are plain credits."""
    chosen = _chosen(ask)
    yield csv_line(COLUMNS)
    for one in runs.every(connection, chosen, ask.now_ms):
        texts = (
            one.reservation,
            one.org_id,
            one.customer_id,
            one.project,
            one.subject,
            one.action,
            one.state,
            one.phase,
        )
        ended = None if one.ended_ms is None else figures.iso(one.ended_ms)
        times = (figures.iso(one.accepted_ms), figures.iso(one.expires_ms), ended, one.ended_by, one.settled_by)
        amounts = (one.amount_micro, one.drawn_micro, one.left_micro)
        yield csv_line((*texts, *times), [figures.plain(micro) for micro in amounts])


def _chosen(ask: Ask) -> Chosen:
    return Chosen(
        ask.choice("state", STATES),
        ask.choice("phase", tuple(PHASES)),
        ask.text("org"),
        ask.text("payer"),
        ask.text("project"),
        ask.choice("older", tuple(OLDER)),
    )


def _filters(chosen: Chosen) -> tuple[Filter, ...]:
    return (
        Filter("state", "State", "" if chosen.state == "held" else chosen.state,
               [("" if one == "held" else one, one) for one in STATES]),
        Filter("phase", "Of those held", chosen.phase, list(PHASE_WORDS.items())),
        Filter("older", "Older than", chosen.older, [(one, one or "any age") for one in OLDER]),
        Filter("org", "Organisation", chosen.org),
        Filter("payer", "Payer", chosen.payer),
        Filter("project", "Project", chosen.project),
    )  # fmt: skip


def _tiles(found: HeldFigures, now_ms: int) -> list[Tile]:
    most = f"of the {MOST_LOOKED_AT:,} that end first" if found.is_cut else "by runs that go on"
    return [
        Tile("Held", figures.credits(found.held_micro), most),
        Tile("Runs that hold", figures.count(found.runs), f"{found.waiting:,} drew nothing yet"),
        Tile(
            "Over, not freed",
            figures.count(found.over),
            "freed as soon as their wallet is looked at",
            "warn" if found.over else "",
        ),
        Tile(
            "Oldest",
            figures.lasting(None if found.oldest_ms is None else now_ms - found.oldest_ms),
            "since it was accepted",
        ),
    ]


def _holders(found: list[Holder]) -> Table:
    rows = [
        (
            Cell(one.customer_id, "id", href=url(PATH, payer=one.customer_id, state="any")),
            cells_of.number(one.runs),
            cells_of.amount(one.held_micro),
            cells_of.time(one.until_ms),
        )
        for one in found
    ]
    heads = ("Payer", "#Runs", "#Held", "Until, UTC")
    return Table(
        "Who holds most, of all runs", heads, rows, "Nobody holds anything.", "drawdown execution list --state held"
    )
