"""Show events, conflicts and quarantined samples, and one event.

The page of an event has its content, the sample that bills it, the pushes of its window, and their charge in a wallet.
A person can withdraw an event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.text import typed
from drawdown.schema.units import DAY_MS
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.server.console.screens.rules.cells import number, org, text_cell, time
from drawdown.worker.sources.samples.quarantine import QuarantineFilter, list_quarantined, require_reason
from drawdown.worker.usage import intake as event_intake
from drawdown.worker.usage.intake import (
    MOST_SEEN,
    Became,
    EventFilter,
    EventLine,
    EventRow,
    Place,
    Sources,
    became,
    show_event,
)
from drawdown.worker.usage.invalid import invalid_items

PATH: Final = "/console/events"
PAGE_EVENTS: Final = 50
PAGE_CONFLICTS: Final = 20
PAGE_INVALID: Final = 50
PAGE_QUARANTINED: Final = 50
FILE_EVENTS: Final = 1_000
"""Events of a file that Drawdown reads into memory at a time."""
COLUMNS: Final = ("source", "event", "type", "org_id", "used", "came_in", "state", "quantity")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen, why = _chosen(ask), ask.text("why")
    query = {**_query(chosen), "why": why}
    found = event_intake.sources(connection, ask.now_ms, chosen)
    quarantined = event_intake.quarantined(connection)
    filters = (
        Filter("source", "Source", chosen.source),
        Filter("type", "Type", chosen.event_type),
        Filter("org", "Organisation", chosen.org_id),
    )
    tables = [
        _sources(found, chosen),
        _arrivals(connection, ask, chosen, query),
        _invalid(connection, ask),
        _conflicts(connection, ask, query),
        _reasons(quarantined, query),
        *([_quarantined(connection, ask, quarantined, query)] if why else []),
    ]
    file = url(f"{PATH}.csv", **_query(chosen))
    tiles = _tiles(found, quarantined)
    return to_context(
        PageContent(PATH, tables, tiles, filters, query={**query, **_place_query(ask)}, file=file, note=SAID)
    )


SAID: Final = "Drawdown returns each invalid item to its sender. It counts invalid items here, and does not keep them."


def _chosen(ask: Ask) -> EventFilter:
    return EventFilter(ask.text("source"), ask.text("type"), ask.text("org"))


def _query(chosen: EventFilter) -> dict[str, object]:
    return {"source": chosen.source, "type": chosen.event_type, "org": chosen.org_id}


def _place(ask: Ask) -> Place | None:
    """Return the place after which the events continue; None for the first page."""
    ms = ask.place("before")
    return Place(ms, ask.text("behind")) if ms else None


def _place_query(ask: Ask) -> dict[str, object]:
    return {"before": ask.place("before") or None, "behind": ask.text("behind")}


def _tiles(found: Sources, quarantined: Mapping[str, int]) -> list[Tile]:
    of_day = sum(one.of_day for one in found.rows)
    more = "" if found.whole else f"of the newest {MOST_SEEN:,}"
    held = sum(quarantined.values())
    full = any(count >= MOST_SEEN for count in quarantined.values())
    return [
        Tile("Events in 24 hours", figures.count(of_day), more or "by time of receipt"),
        Tile("Sources and types", figures.count(len(found.rows)), "of these events"),
        Tile("Quarantined", figures.count(held), f"{'or more, ' if full else ''}not billed", "warn" if held else ""),
        Tile(
            "In conflict",
            figures.count(quarantined.get("id_conflict", 0)),
            "same id, different content",
            "warn" if quarantined.get("id_conflict") else "",
        ),
    ]


def _sources(found: Sources, chosen: EventFilter) -> Table:
    rows = [
        (Cell(one.source, "id", href=url(PATH, source=one.source)),
         Cell(one.event_type, "id", href=url(PATH, type=one.event_type)),
         number(one.of_day), number(one.events, wide=True), number(one.orgs, wide=True), time(one.last_ms))
        for one in found.rows
    ]  # fmt: skip
    heads = ("Source", "Type", "#In 24 hours", "#Events", "#Organisations", "Last received, UTC")
    since = (
        ""
        if found.whole
        else f"Counts the newest {found.seen:,} events, received since {figures.time(found.since_ms)}."
    )
    none = "No event exists yet." if chosen == EventFilter() else "No event matches the filter."
    command = "drawdown event sources" if rows else "curl -H 'Authorization: Bearer ddk_…' $URL/v1/events"
    return Table("Events by source and type", heads, rows, none, command, note=since)


def _arrivals(connection: sa.Connection, ask: Ask, chosen: EventFilter, query: Mapping[str, object]) -> Table:
    found = event_intake.arrivals(connection, chosen, after=_place(ask), most=PAGE_EVENTS)
    rows = [
        (Cell(one.event_id, "id", href=event_url(one)), _state(one), text_cell(one.event_type), org(one.org_id),
         number(one.quantity), time(one.ingested_ms, wide=True), time(one.ts, wide=True),
         text_cell(one.source, wide=True))
        for one in found.events
    ]  # fmt: skip
    heads = ("Event", "State", "Type", "Organisation", "#Quantity", "Received, UTC", "Used, UTC", "Source")
    next_ = ""
    if found.next is not None:
        next_ = url(PATH, **{**query, "before": found.next.ingested_ms, "behind": found.next.sample_id})
    none = "No searched event matches the filter." if next_ else "No such event exists."
    command = (
        f"drawdown event list --org {quote(chosen.org_id)} --from 1d" if chosen.org_id else "drawdown event sources"
    )
    note = f"{none} The next page looks further back." if next_ and not rows else ""
    first = url(PATH, **query) if _place(ask) else ""
    return Table("Events, the newest first", heads, rows, none, command, next_, note, first=first)


def event_url(one: EventLine) -> str:
    return url("/console/event", source=one.source, id=one.event_id, org=one.org_id)


def _state(one: EventLine) -> Cell:
    return Cell("withdrawn", "state", "warn") if one.withdrawn else Cell("kept", "state")


def _invalid(connection: sa.Connection, ask: Ask) -> Table:
    since = ask.now_ms - ask.now_ms % HOUR_MS - DAY_MS
    rows = [
        (text_cell(one.key_name), text_cell(one.code), text_cell(one.kind), number(one.items),
         time(one.first_ms, wide=True), time(one.last_ms), text_cell(one.item_id, wide=True),
         text_cell(one.source, wide=True))
        for one in invalid_items(connection, since, PAGE_INVALID)
    ]  # fmt: skip
    heads = ("Key", "Reason", "Kind", "#Items", "First, UTC", "Last, UTC", "Example", "Source or cell")
    none = "Programs did not send an invalid item in 24 hours."
    return Table("Invalid in 24 hours, by key and reason", heads, rows, none, "drawdown event invalid")


def _conflicts(connection: sa.Connection, ask: Ask, query: Mapping[str, object]) -> Table:
    found = event_intake.conflicts(connection, before=ask.place("conflict"), most=PAGE_CONFLICTS)
    rows = []
    for one in found.conflicts:
        event = Cell(one.sample_id, "id")
        if one.event_source is not None:
            event = Cell(
                str(one.event_id),
                "id",
                href=url("/console/event", source=one.event_source, id=one.event_id, org=one.org_id),
            )
        state = Cell("closed", "state") if one.closed else Cell("open", "state", "warn")
        rows.append(
            (time(one.seen_ms), event, text_cell(one.source, wide=True), text_cell(one.content, wide=True), state)
        )
    heads = ("Seen, UTC", "Kept event", "Sender", "Different content", "State")
    next_ = url(PATH, **{**query, "conflict": found.next_before}) if found.next_before else ""
    none = "No conflict exists. An event conflicts if it arrives again with the same id and different content."
    first = url(PATH, **query) if ask.place("conflict") else ""
    command = "drawdown sample quarantined --why id_conflict"
    return Table("Conflicts", heads, rows, none, command, next_, first=first)


def _reasons(found: Mapping[str, int], query: Mapping[str, object]) -> Table:
    rows = [
        (Cell(reason.replace("_", " "), href=url(PATH, **{**query, "why": reason})),
         number(count) if count < MOST_SEEN else Cell(f"{count:,} or more", "number"))
        for reason, count in found.items()
    ]  # fmt: skip
    none = "No sample is quarantined. Drawdown can bill all samples."
    return Table("Quarantined, by reason", ("Reason", "#Samples"), rows, none, "drawdown sample quarantined")


def _quarantined(connection: sa.Connection, ask: Ask, reasons: Mapping[str, int], query: Mapping[str, object]) -> Table:
    why, after = ask.text("why"), ask.place_text("sample")
    if why not in reasons:
        require_reason(connection, why)
    found = list_quarantined(connection, QuarantineFilter(reason=why), ask.now_ms, after=after, most=PAGE_QUARANTINED)
    rows = [
        (text_cell(one.sample_id), text_cell(one.org_id), time(one.came_ms, wide=True), text_cell(one.ts, wide=True),
         time(one.meant_ms, wide=True), text_cell(one.interval_s, wide=True))
        for one in found.samples
    ]  # fmt: skip
    heads = ("Sample", "Organisation", "Received, UTC", "Original time", "Likely time, UTC", "Seconds or units")
    next_ = url(PATH, **{**query, "sample": found.next_after}) if found.next_after else ""
    title = f"Quarantined: {why.replace('_', ' ')}"
    return Table(
        title,
        heads,
        rows,
        "No sample is quarantined for this reason.",
        f"drawdown sample quarantined --why {quote(why)}",
        next_,
        first=url(PATH, **query) if after else "",
    )


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the events of the filter, newest first."""
    chosen, place = _chosen(ask), _place(ask)
    event_intake.require_known(connection, chosen)
    yield csv_line(COLUMNS)
    while True:
        page = event_intake.arrivals(connection, chosen, after=place, most=FILE_EVENTS)
        for one in page.events:
            texts = (
                one.source,
                one.event_id,
                one.event_type,
                one.org_id,
                figures.iso(one.ts),
                figures.iso(one.ingested_ms),
            )
            yield csv_line((*texts, "withdrawn" if one.withdrawn else "kept"), (one.quantity,))
        if page.next is None:
            return
        place = page.next


EVENT_PATH: Final = "/console/event"


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    source, event_id = ask.required("source"), ask.required("id")
    event = show_event(connection, source, event_id, ask.text("org") or None)
    found = became(connection, event)
    command = f"drawdown event show {typed(source, event_id, '--org', event.org_id)}"
    tables = [_facts(event, command), _pushes(event, found), _entries(found)]
    above = Link("Events", url("/console/events", source=source))
    query = {"source": source, "id": event_id, "org": event.org_id}
    return to_context(
        PageContent(
            EVENT_PATH,
            tables,
            query=query,
            above=above,
            heading=event_id,
            note=_explain_state(event),
            acts=_acts(event),
        )
    )


def _acts(event: EventRow) -> tuple[Link, ...]:
    if event.withdrawn is not None:
        return ()
    return (act("Withdraw", "event-withdraw", source=event.source, event=event.event_id, org=event.org_id),)


def _explain_state(event: EventRow) -> str:
    if event.withdrawn is not None:
        return f"Withdrawn: {event.withdrawn}. The next tick refunds the event's charge."
    return (
        ""
        if event.feature
        else "No feature is mapped to the event's type. To bill it, map the type with `drawdown feature map-event`."
    )


def _facts(event: EventRow, command: str) -> Table:
    pairs = (
        ("Organisation", org(event.org_id)),
        ("Source", text_cell(event.source)),
        ("Type", text_cell(event.event_type)),
        ("Quantity", Cell(figures.count(event.quantity))),
        ("Used, UTC", time(event.ts)),
        ("Received, UTC", time(event.ingested_ms)),
        ("Feature", text_cell(event.feature)),
        ("Project", text_cell(event.project)),
        ("Subject", text_cell(event.subject)),
        ("Plan", text_cell(event.plan_key)),
        ("Properties", text_cell(event.properties)),
        ("Billed sample", text_cell(event.sample_id)),
    )
    return Table("Event data", ("Field", "Value"), [(Cell(name), cell) for name, cell in pairs], "", command)


def _pushes(event: EventRow, found: Became) -> Table:
    rows = [
        (Cell(one.key, "id", href=url("/console/push", key=one.key)), Cell(str(one.revision), "number", narrow=False),
         text_cell(one.provider, wide=True), number(one.sealed_qty),
         cells_of.state(one.state))
        for one in found.pushes
    ]  # fmt: skip
    heads = ("Push", "#Revision", "Provider", "#Sealed", "State")
    note = f"Each push covers all use of the feature in the window of {figures.time(found.window_ms)} UTC."
    none = "No push exists yet, because the event's window is not sealed, or no provider bills the event."
    return Table(
        "Pushes",
        heads,
        rows,
        none,
        "drawdown tick" if not rows else f"drawdown push list --org {quote(event.org_id)}",
        note=note if rows else "",
    )


def _entries(found: Became) -> Table:
    rows = [
        (time(one.ts), Cell(one.key, "id", href=_ledger(one.customer_id, one.ts)),
         text_cell(one.customer_id, wide=True), Cell(figures.moved(one.moved_micro), "number"))
        for one in found.entries
    ]  # fmt: skip
    heads = ("Used, UTC", "Entry", "Wallet", "#Amount")
    none = "No entry exists, because the event waits for its push, or is billed elsewhere."
    customer = found.entries[0].customer_id if found.entries else "CUSTOMER"
    return Table("Ledger entries", heads, rows, none, f"drawdown ledger show {typed(customer)}")


def _ledger(customer_id: str, ts: int) -> str:
    """Return the address of the entry's day in the ledger by days."""
    return url("/console/org", id=customer_id, tab="usage", days=90, day=figures.day(ts - ts % DAY_MS)) + "#ledger"
