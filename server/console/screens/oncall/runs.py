"""Show executions with reserved credit, executions by filter, and one execution.

The page of an execution has its reservation, its draws and its end. A person can release it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Reservation
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.declare import Fact, Size
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_credits, type_credits
from drawdown.schema.units import DAY_MS
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import command, url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions import lists as runs
from drawdown.worker.executions.lists import EVER, MOST_LOOKED_AT, HeldFigures, Holder, RunEntry, RunFilter, show_run

PATH: Final = "/console/executions"
HEADS: Final = (
    "Accepted, UTC", "Execution", "Organisation", "Payer", "State", "#Reserved", "#Drawn", "#Held", "Ends, UTC",
    "Charged by",
)  # fmt: skip
COLUMNS: Final = (
    "execution", "org_id", "payer", "project", "subject", "action", "state", "phase", "accepted", "expires", "ended",
    "ended_by", "settled_by", "reserved", "drawn", "held",
)  # fmt: skip
"""Columns of a file of executions.

If the receipt charges an execution, its draws are entries of the ledger under its name. If metering charges the
execution, its draws are usage. Read `settled_by` before you add up draws or usage.
"""
STATES: Final = (*runs.STATES, "any")
OLDER: Final[Mapping[str, int]] = {"": 0, "1h": HOUR_MS, "6h": 6 * HOUR_MS, "24h": DAY_MS, "7d": 7 * DAY_MS}
"""Minimum time since acceptance, in milliseconds. '' selects all executions."""
PHASE_WORDS: Final = {"": "any", "waiting": "no draw yet", "drawing": "drawing", "over": "expired, not released"}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(ask)
    found = runs.list_runs(connection, chosen, ask.now_ms, ask.key("after"))
    figures_ = runs.held_figures(connection, chosen, ask.now_ms)
    names = ("state", "phase", "older", "org", "payer", "project")
    query = {name: ask.query[name] for name in names if ask.query.get(name)}
    rows = [
        (
            cells_of.time(one.accepted_ms, narrow=False),
            Cell(one.reservation, "id", href=url("/console/execution", key=one.reservation), links=_release(one)),
            cells_of.org(one.org_id),
            cells_of.org(one.customer_id, narrow=False)
            if one.customer_id == one.org_id
            else Cell(one.customer_id, "id", narrow=False),
            Cell(_phase(one), "state"),
            cells_of.amount(one.amount_micro, narrow=False),
            cells_of.amount(one.drawn_micro, narrow=False),
            cells_of.amount(one.left_micro),
            cells_of.time(one.ended_ms or one.expires_ms),
            Cell(one.settled_by, narrow=False),
        )
        for one in found.runs
    ]
    listed = Table(
        "Executions, the first to end first" if chosen.ends_first else "Executions, the newest first",
        HEADS,
        rows,
        "No execution matches the filter." if query else "No execution has reserved credit yet.",
        command("execution", "list", *(word for name, value in _options(ask) for word in (f"--{name}", value))),
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        note=f"This page searched {MOST_LOOKED_AT:,} executions. The next page continues." if found.is_cut else "",
        first=url(PATH, **query) if ask.key("after") else "",
    )
    tables = [listed] if ask.query.get("after") else [listed, _holders(runs.holders(connection, ask.now_ms))]
    page = PageContent(
        PATH,
        tables,
        tiles=_tiles(figures_, ask.now_ms, url(PATH, **{**query, "state": "", "phase": "over"})),
        filters=_filters(ask),
        query=query,
        file=url(f"{PATH}.csv", **query),
    )
    return to_context(page)


def _phase(one: Reservation) -> str:
    """Return the phase of an execution: waiting, drawing, or its final state."""
    if one.state != "held":
        return one.state
    return "drawing" if one.drawn_micro else "waiting"


def _release(one: Reservation) -> tuple[Link, ...]:
    return (act("Release", "execution-release", execution=one.reservation),) if one.state == "held" else ()


def _options(ask: Ask) -> list[tuple[str, str]]:
    state = ask.choice("state", STATES)
    state = "expired" if ask.query.get("phase") == "over" else state  # this command also lists released executions
    said = (("older-than", "older"), ("org", "org"), ("payer", "payer"), ("project", "project"))
    return [
        *((("state", state),) if state != "any" else ()),
        *((option, value) for option, name in said if (value := ask.query.get(name, ""))),
    ]


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the executions of the filter. Amounts are plain credits."""
    chosen = _chosen(ask)
    yield csv_line(COLUMNS)
    for one in runs.every_run(connection, chosen, ask.now_ms):
        texts = (
            one.reservation,
            one.org_id,
            one.customer_id,
            one.project,
            one.subject,
            one.action,
            one.state,
            _phase(one),
        )
        ended = None if one.ended_ms is None else figures.iso(one.ended_ms)
        times = (figures.iso(one.accepted_ms), figures.iso(one.expires_ms), ended, one.ended_by, one.settled_by)
        amounts = (one.amount_micro, one.drawn_micro, one.left_micro)
        yield csv_line((*texts, *times), [figures.plain(micro) for micro in amounts])


def _chosen(ask: Ask) -> RunFilter:
    state, older = ask.choice("state", STATES), ask.choice("older", tuple(OLDER))
    return RunFilter(
        () if state == "any" else (state,),
        phase=ask.choice("phase", tuple(PHASE_WORDS)),
        org=ask.text("org"),
        payer=ask.text("payer"),
        project=ask.text("project"),
        accepted_by_ms=ask.now_ms - OLDER[older] if older else EVER,
    )


def _filters(ask: Ask) -> tuple[Filter, ...]:
    state = ask.choice("state", STATES)
    return (
        Filter("state", "State", "" if state == "held" else state,
               [("" if one == "held" else one, one) for one in STATES]),
        Filter("phase", "Phase", ask.choice("phase", tuple(PHASE_WORDS)), list(PHASE_WORDS.items())),
        Filter("older", "Older than", ask.choice("older", tuple(OLDER)), [(one, one or "any age") for one in OLDER]),
        Filter("org", "Organisation", ask.text("org")),
        Filter("payer", "Payer", ask.text("payer")),
        Filter("project", "Project", ask.text("project")),
    )  # fmt: skip


def _tiles(found: HeldFigures, now_ms: int, over: str) -> list[Tile]:
    most = f"of the {MOST_LOOKED_AT:,} that end first" if found.is_cut else "by open executions"
    return [
        Tile("Held", figures.credits(found.held_micro), most),
        Tile("Executions with reserved credit", figures.count(found.runs), f"{found.waiting:,} without a draw"),
        Tile(
            "Expired, not released",
            figures.count(found.over),
            "released when their wallet is next read",
            "warn" if found.over else "",
            over if found.over else "",
        ),
        Tile(
            "Oldest",
            figures.lasting(None if found.oldest_ms is None else now_ms - found.oldest_ms),
            "since acceptance",
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
    heads = ("Payer", "#Executions", "#Held", "Until, UTC")
    return Table(
        "Executions with the most reserved credit",
        heads,
        rows,
        "No execution has reserved credit.",
        "drawdown execution list --state held",
    )


RUN_PATH: Final = "/console/execution"
MOST_ENTRIES: Final = 200
"""Draws of one execution that a page shows."""


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    key = ask.required("key")
    run, entries = show_run(connection, key, ask.now_ms, MOST_ENTRIES)
    page = PageContent(
        RUN_PATH,
        [_drawn(key, entries, run.drawn_micro, metered=run.settled_by == "metering"), _facts_table(run)],
        tiles=[
            Tile("State", run.state, "", "warn" if run.state == "expired" else ""),
            Tile("Reserved", figures.credits(run.amount_micro), "at acceptance or later"),
            Tile("Drawn", figures.credits(run.drawn_micro), "charged so far"),
            Tile("Held", figures.credits(run.left_micro), f"until {figures.time(run.expires_ms)}"),
        ],
        acts=[act("Release execution", "execution-release", execution=key)] if run.state == "held" else [],
        query={"key": key},
        above=Link(run.org_id, url("/console/org", id=run.org_id)),
        heading=key,
    )
    return to_context(page)


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
    heads = ("Booked, UTC", "#Credits", "Feature", "#Quantity", "Actor", "Entry")
    note = f"This table shows the first {MOST_ENTRIES:,} draws." if len(rows) == MOST_ENTRIES else ""
    if rows and not metered:
        note = f"Charged by its receipt, without samples or pushes. {note}".rstrip()
    none = "No draw exists yet."
    if drawn_micro:
        none = f"{figures.credits(drawn_micro)} drawn by usage, not booked as entries of this execution."
    return Table("Draws", heads, rows, none, f"drawdown execution show {typed(key)}", note=note)


def _facts_table(run: Reservation) -> Table:
    facts: list[tuple[str, Cell]] = [
        ("Organisation", cells_of.org(run.org_id)),
        ("Payer", cells_of.org(run.customer_id) if run.customer_id == run.org_id else Cell(run.customer_id, "id")),
        ("Project", _named(run.project)),
        ("Subject", _named(run.subject)),
        ("Action", _named(run.action)),
        ("Sandboxes", _named(", ".join(run.named))),
        ("Supplier", _named(run.supplier)),
        ("Estimate", _named(run.estimate)),
        ("Reserved at", Cell(run.hold)),
        ("Charged by", Cell(run.settled_by)),
        ("Overage", Cell(run.overage)),
        ("Accepted, UTC", cells_of.time(run.accepted_ms)),
        ("Held until, UTC", cells_of.time(run.expires_ms)),
        ("Ended, UTC", cells_of.time(run.ended_ms)),
        ("Ended by", _named(run.ended_by)),
        ("End reason", _named(run.ended_reason)),
        ("Accepted by", Cell(f"{run.actor}: {run.reason}", "id")),
    ]
    rows = [(Cell(name), value) for name, value in facts]
    return Table("Details", ("Field", "Value"), rows, "", f"drawdown execution show {typed(run.reservation)}")


def _named(text: str | None) -> Cell:
    return Cell(text or figures.UNKNOWN, "id")


def _release_size(connection: sa.Connection, doing: Doing) -> Size:
    """Return the size of a release: the held credit beyond the incurred cost."""
    run, _ = show_run(connection, doing.text("execution"), doing.by.now_ms, 1)
    more = (doing.credits("incurred") or run.drawn_micro) - run.drawn_micro
    return Size(micro=max(run.left_micro - max(more, 0), 0))


def _run(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    run, _ = show_run(connection, doing.text("execution"), doing.by.now_ms, 1)
    return [
        Fact("State", run.state),
        Fact("Drawn", figures.exact(run.drawn_micro)),
        Fact("Held", figures.exact(run.left_micro)),
    ]


def _do_release(connection: sa.Connection, doing: Doing) -> ActionResult:
    key, micro = doing.text("execution"), doing.credits("incurred")
    done = executions.release(connection, key, None if micro is None else Cost(micro), doing.by)
    run = done.drawn.reservation
    return ActionResult(f"{key}: {run.state}; it cost {show_credits(run.drawn_micro)} credits in total")


def _release_command(doing: Doing) -> list[str]:
    micro = doing.credits("incurred")
    return [
        "execution",
        "release",
        doing.text("execution"),
        *([] if micro is None else ["--incurred", type_credits(micro)]),
    ]


RELEASE: Final = Action(
    "execution-release",
    "Release execution",
    (
        Field("execution", "Execution"),
        Field(
            "incurred",
            "Incurred cost to charge, in credits",
            "credits",
            "Total cost; the drawn cost if left empty.",
            optional=True,
        ),
    ),
    _do_release,
    _run,
    _release_command,
    lambda doing: url("/console/execution", key=doing.text("execution")),
    "Drawdown releases the reserved credit, and charges the drawn or incurred cost.",
    size=_release_size,
)


ACTIONS: Final = (RELEASE,)
