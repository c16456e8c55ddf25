"""One run: what was reserved, what it drew, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.reservations import Reservation
from drawdown.schema.text import typed
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.executions.lists import RunEntry, show_run

PATH: Final = "/console/run"
MOST_ENTRIES: Final = 200
"""Draws of one run that are shown."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    key = ask.required("key")
    run, entries = show_run(connection, key, ask.now_ms, MOST_ENTRIES)
    page = Shown(
        PATH,
        [_drawn(key, entries, run.drawn_micro, metered=run.settled_by == "metering"), _known(run)],
        tiles=[
            Tile("State", run.state, "", "warn" if run.state == "expired" else ""),
            Tile("Reserved", figures.credits(run.amount_micro), "when it was accepted, or since"),
            Tile("Drawn", figures.credits(run.drawn_micro), "charged so far"),
            Tile("Held", figures.credits(run.left_micro), f"until {figures.time(run.expires_ms)}"),
        ],
        acts=[act("Give the run up", "run-release", run=key)] if run.state == "held" else [],
        query={"key": key},
        above=Link(run.org_id, url("/console/org", id=run.org_id)),
        heading=key,
    )
    return shown(page)


def _drawn(key: str, entries: list[RunEntry], drawn_micro: int, *, metered: bool) -> Table:
    rows = [
        (
            cells_of.time(one.at_ms),
            Cell(figures.exact(one.amount_micro), "number"),
            Cell(one.feature or figures.UNKNOWN, "id"),
            cells_of.number(one.quantity),
            Cell(one.actor, "id", narrow=False),
            Cell(one.key, "id", narrow=False),
        )
        for one in entries
    ]
    heads = ("Booked, UTC", "#Credits", "Feature", "#Quantity", "By", "Entry")
    note = f"The first {MOST_ENTRIES:,}." if len(rows) == MOST_ENTRIES else ""
    if rows and not metered:
        note = f"By its receipt: no samples and no push stand behind them. {note}".rstrip()
    none = "It drew nothing yet."
    if drawn_micro:
        none = f"{figures.credits(drawn_micro)} drawn by usage, not booked as entries of this run."
    return Table("Drawn", heads, rows, none, f"drawdown execution show {typed(key)}", note=note)


def _known(run: Reservation) -> Table:
    facts: list[tuple[str, Cell]] = [
        ("Organisation", cells_of.org(run.org_id)),
        ("Payer", cells_of.org(run.customer_id) if run.customer_id == run.org_id else Cell(run.customer_id, "id")),
        ("Project", _named(run.project)),
        ("Subject", _named(run.subject)),
        ("Action", _named(run.action)),
        ("Sandboxes", _named(", ".join(run.named))),
        ("Supplier", _named(run.supplier)),
        ("Estimate", _named(run.estimate)),
        ("Where it is held", Cell(run.hold)),
        ("Charged by", Cell(run.settled_by)),
        ("If it costs more", Cell(run.overage)),
        ("Accepted, UTC", cells_of.time(run.accepted_ms)),
        ("Held until, UTC", cells_of.time(run.expires_ms)),
        ("Ended, UTC", cells_of.time(run.ended_ms)),
        ("Ended by", _named(run.ended_by)),
        ("Why it ended", _named(run.ended_reason)),
        ("Accepted by", Cell(f"{run.actor}: {run.reason}", "id")),
    ]
    rows = [(Cell(name), value) for name, value in facts]
    return Table("What is known of it", ("What", "Is"), rows, "", f"drawdown execution show {typed(run.reservation)}")


def _named(text: str | None) -> Cell:
    return Cell(text or figures.UNKNOWN, "id")
