"""One event: what it said, the sample that bills it, the pushes of its window, and what they came to in a wallet."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.schema.units import DAY_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Shown, Table, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.rules.cells import number, org, said, time
from drawdown.worker.usage.intake import Became, EventRow, became, show_event

PATH: Final = "/console/event"
PUSH_TONES: Final = {"in_doubt": "bad", "rejected": "bad", "due": "warn", "queued": "warn"}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    source, event_id = ask.required("source"), ask.required("id")
    event = show_event(connection, source, event_id, ask.text("org") or None)
    found = became(connection, event)
    command = f"drawdown event show {typed(source, event_id, '--org', event.org_id)}"
    tables = [_facts(event, command), _pushes(event, found), _entries(found)]
    above = Link("Events", url("/console/events", source=source))
    query = {"source": source, "id": event_id, "org": event.org_id}
    return shown(Shown(PATH, tables, query=query, above=above, heading=event_id, said=_said(event), acts=_acts(event)))


def _acts(event: EventRow) -> tuple[Link, ...]:
    if event.withdrawn is not None:
        return ()
    return (act("Withdraw", "event-withdraw", source=event.source, id=event.event_id, org=event.org_id),)


def _said(event: EventRow) -> str:
    if event.withdrawn is not None:
        return f"Withdrawn: {event.withdrawn}. The next tick gives back what was billed."
    return (
        ""
        if event.feature
        else "Nothing makes a feature of its type: it is billed once `drawdown feature map-event` says as what."
    )


def _facts(event: EventRow, command: str) -> Table:
    pairs = (
        ("Organisation", org(event.org_id)),
        ("Source", said(event.source)),
        ("Type", said(event.event_type)),
        ("Quantity", Cell(figures.count(event.quantity))),
        ("Used, UTC", time(event.ts)),
        ("Came in, UTC", time(event.ingested_ms)),
        ("Feature", said(event.feature)),
        ("Project", said(event.project)),
        ("Subject", said(event.subject)),
        ("Plan", said(event.plan_key)),
        ("Properties", said(event.properties)),
        ("Sample that bills it", said(event.sample_id)),
    )
    return Table("What it said", ("What", "Said"), [(Cell(name), cell) for name, cell in pairs], "", command)


def _pushes(event: EventRow, found: Became) -> Table:
    rows = [
        (Cell(one.key, "id", href=url("/console/push", key=one.key)), Cell(str(one.revision), "number", narrow=False),
         said(one.provider, wide=True), number(one.sealed_qty), Cell(one.state, "state", PUSH_TONES.get(one.state, "")))
        for one in found.pushes
    ]  # fmt: skip
    heads = ("Push", "#Revision", "Provider", "#Sealed", "State")
    note = f"Of its whole window, {figures.time(found.window_ms)} UTC on: of all that was used of its feature then."
    none = "Its window was not sealed yet, or nobody bills it: the next tick seals it."
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
        (time(one.ts), Cell(one.key, "id", href=_ledger(one.customer_id, one.ts)), said(one.customer_id, wide=True),
         Cell(figures.moved(one.moved_micro), "number"))
        for one in found.entries
    ]  # fmt: skip
    heads = ("Of, UTC", "Entry", "Wallet", "#Moved")
    none = "No wallet here was charged for it: it waits for its push, or is billed elsewhere."
    customer = found.entries[0].customer_id if found.entries else "CUSTOMER"
    return Table("What it came to in the ledger", heads, rows, none, f"drawdown ledger show {typed(customer)}")


def _ledger(customer_id: str, ts: int) -> str:
    """The day of the entry, opened, in the ledger by days."""
    return url("/console/org", id=customer_id, tab="usage", days=90, day=figures.day(ts - ts % DAY_MS)) + "#ledger"
