"""Pushes: what is open, in all and one by one; and all others, by the same filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import command, url
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.server.console.screens.oncall import cells_of
from drawdown.server.console.screens.oncall.doing.pushes import PROVEN, RETRIED
from drawdown.worker.push.lists import (
    FOR_PEOPLE,
    MOST_LOOKED_AT,
    STATES,
    OpenSum,
    PushFilter,
    PushLine,
    WaitSums,
    every_push,
    list_pushes,
    open_sums,
    wait_sums,
)

PATH: Final = "/console/pushes"
HEADS: Final = (
    "Window, UTC", "Organisation", "Feature", "#Sealed", "#Sent", "Provider", "State", "Next try, UTC", "#Tries",
    "Error",
)  # fmt: skip
FILTERS: Final = ("state", "provider", "org", "feature", "from", "to", "why")
TRIED: Final = ("due", "queued")
CUT: Final = f"Of {MOST_LOOKED_AT:,} that were looked through; the next page goes on."
MOST_CHOICE: Final = 60
"""Characters of a reason in the filter."""
COLUMNS: Final = (
    "key", "window", "org_id", "feature", "provider", "customer_id", "state", "last_error", "revision", "sealed",
    "sent", "attempts",
)  # fmt: skip
TILES: Final = (
    ("due", "Due", "to be sent or tried again", "warn"),
    ("queued", "Queued", "taken by a provider, not charged yet", "warn"),
    ("in_doubt", "In doubt", "sent, outcome unknown", "bad"),
    ("rejected", "Rejected", "proven not charged", "bad"),
    ("awaiting_credit", "Awaiting credit", "billed once there is credit", "warn"),
)


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(connection, ask)
    reasons = wait_sums(connection)
    found = list_pushes(connection, chosen, ask.now_ms, ask.key("after"))
    sums = open_sums(connection)
    query = {name: ask.query[name] for name in FILTERS if ask.query.get(name)}
    listed = Table(
        f"Pushes: {STATE_WORDS[chosen.state]}",
        HEADS,
        [_row(one) for one in found.lines],
        "None is like that."
        if query
        else "Nothing is open: every push is settled. Usage that is sealed makes new ones.",
        _command(query),
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        note=" ".join(filter(None, (_order(chosen), CUT if found.is_cut else ""))),
        first=url(PATH, **query) if ask.key("after") else "",
    )
    tables = [listed] if ask.query.get("after") else [_why(reasons, ask.now_ms), _sums(sums), listed]
    return shown(
        Shown(
            PATH,
            tables,
            tiles=_tiles(sums),
            filters=_filters(ask, chosen, reasons),
            acts=_acts(chosen, sums),
            query=query,
            file=url(f"{PATH}.csv", **query),
        )
    )


STATE_WORDS: Final = {"open": "open", "any": "all", **{name: name.replace("_", " ") for name in STATES[1:-1]}}


def _row(one: PushLine) -> tuple[Cell, ...]:
    return (
        Cell(figures.time(one.window_ms), "time", href=url("/console/push", key=one.key)),
        cells_of.org(one.org_id, "pushes"),
        Cell(one.feature, "id"),
        cells_of.number(one.sealed_qty, narrow=False),
        cells_of.number(one.sent_qty),
        Cell(one.provider, "id", narrow=False),
        cells_of.state(one.state),
        cells_of.time(one.due_at_ms if one.state in TRIED else None, narrow=False),
        cells_of.number(one.attempts, narrow=False),
        cells_of.said(one.last_error, narrow=True),
    )


def _order(chosen: PushFilter) -> str:
    """How the list is ordered, in words."""
    if chosen.org or not chosen.is_open:
        return "The latest window first."
    if chosen.state in FOR_PEOPLE:
        return "The oldest window first."
    tried = "by provider, the next to be tried first"
    if chosen.state == "open":
        return f"In doubt first, then rejected, of both the oldest window first; then due and queued, {tried}."
    return f"Ordered {tried}."


def _acts(chosen: PushFilter, sums: list[OpenSum]) -> list[Link]:
    """What may be done to all that is shown, with the count that was seen; a command chooses by no more than these."""
    if chosen.feature or chosen.org or chosen.why or chosen.from_ms is not None or chosen.to_ms is not None:
        return []
    of_provider = [one for one in sums if chosen.provider in ("", one.provider) and one.state == chosen.state]
    count = sum(one.pushes for one in of_provider)
    if not count:
        return []

    def all_of(text: str, name: str) -> Link:
        return act(text, name, state=chosen.state, provider=chosen.provider, expect=count)

    found = [all_of("Send all again", "push-retry")] if chosen.state in RETRIED else []
    if chosen.state in PROVEN:
        found += [all_of("Say what became of all", "push-resolve"), all_of("Void all", "push-void")]
    return found


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly those of the filter."""
    chosen = _chosen(connection, ask)
    yield csv_line(COLUMNS)
    for one in every_push(connection, chosen, ask.now_ms):
        texts = (one.key, figures.iso(one.window_ms), one.org_id, one.feature, one.provider, one.customer_id, one.state)
        yield csv_line((*texts, one.last_error), (one.revision, one.sealed_qty, one.sent_qty, one.attempts))


def _chosen(connection: sa.Connection, ask: Ask) -> PushFilter:
    """Errors: UsageError; UnknownId for a provider that never billed anybody: this machine's own are not known here."""
    provider = ask.text("provider")
    if provider:
        ids.require(connection, ids.PROVIDER, provider)
    return PushFilter(
        ask.choice("state", STATES),
        provider,
        ask.text("org"),
        ask.text("feature"),
        ask.moment("from"),
        ask.moment("to"),
        ask.place_text("why"),
    )


def _filters(ask: Ask, chosen: PushFilter, reasons: WaitSums) -> tuple[Filter, ...]:
    why = dict.fromkeys(one.error for one in reasons.sums)
    return (
        Filter("state", "State", "" if chosen.state == "open" else chosen.state,
               [("" if one == "open" else one, STATE_WORDS[one]) for one in STATES]),
        Filter("provider", "Provider", chosen.provider),
        Filter("org", "Organisation", chosen.org),
        Filter("feature", "Feature", chosen.feature),
        Filter("from", "Windows from, UTC", ask.query.get("from", "")),
        Filter("to", "Windows to, UTC", ask.query.get("to", "")),
        Filter("why", "Why it waits", chosen.why, [("", "any"), *((one, one[:MOST_CHOICE]) for one in why)]),
    )  # fmt: skip


def _tiles(sums: list[OpenSum]) -> list[Tile]:
    found = []
    for name, title, what, tone in TILES:
        count = sum(one.pushes for one in sums if one.state == name)
        found.append(Tile(title, figures.count(count), what, tone if count else "", url(PATH, state=name)))
    return found


def _why(reasons: WaitSums, now_ms: int) -> Table:
    """What is open by its reason: each leads to the list of those alone."""
    rows = [
        (
            cells_of.state(one.state),
            cells_of.said(one.error, narrow=True),
            Cell(one.provider, "id"),
            Cell(
                figures.count(one.pushes),
                "number",
                href=url(PATH, state=one.state, provider=one.provider, why=one.error),
            ),
            Cell(figures.time(one.oldest_ms), "time", under=figures.ago(one.oldest_ms, now_ms)),
            cells_of.time(one.next_ms, narrow=False),
        )
        for one in reasons.sums
    ]
    heads = ("State", "Reason", "Provider", "#Pushes", "Oldest window, UTC", "Next try, UTC")
    note = f"These {len(rows)} reasons are not all: more than so many are not told apart here." if reasons.more else ""
    return Table("Why they wait", heads, rows, "Nothing is open.", "drawdown push list", note=note)


def _sums(sums: list[OpenSum]) -> Table:
    rows = [
        (
            Cell(one.provider, "id"),
            cells_of.state(one.state),
            Cell(one.feature, "id"),
            Cell(
                figures.count(one.pushes),
                "number",
                href=url(PATH, state=one.state, provider=one.provider, feature=one.feature),
            ),
            cells_of.number(one.quantity),
            cells_of.time(one.oldest_ms, narrow=False),
        )
        for one in sums
    ]
    heads = ("Provider", "State", "Feature", "#Pushes", "#Quantity", "Oldest sealed, UTC")
    folded = "By provider, state and feature" if rows else ""
    return Table("Open, in all", heads, rows, "Nothing is open.", "drawdown push list", folded=folded)


def _command(query: Mapping[str, str]) -> str:
    return command("push", "list", *(word for name, value in query.items() for word in (f"--{name}", value)))
