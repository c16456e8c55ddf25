"""What waits and is billed by nobody yet: by reason, with what mends it; by organisation; what has no feature; and
samples in quarantine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.features.lists import UnmappedEvent, UnmappedSize, unmapped_events, unmapped_sizes
from drawdown.worker.sources.samples.quarantine import QuarantineFilter, SampleRow, list_quarantined, require_reason
from drawdown.worker.status import status
from drawdown.worker.status.backlog import quarantined
from drawdown.worker.status.standing import PENDING, PendingUsage, how_much
from drawdown.worker.status.status import WHAT, Beside, PendingOrg, PendingPage

PATH: Final = "/console/pending"
MOST_QUARANTINED: Final = 50
"""Samples of the quarantine that are shown at once."""
LATE: Final = "below_floor"


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    reason, why = ask.choice("reason", ("", *WHAT)), ask.text("why")
    after_sample = ask.place_text("after_sample")
    reasons = status.reasons(connection)
    beside = status.beside(connection, ask.now_ms)
    held = quarantined(connection)
    if why and why not in held:
        require_reason(connection, why)
    orgs = status.page(connection, reason, ask.text("after"))
    samples = list_quarantined(
        connection,
        QuarantineFilter(reason=why),
        ask.now_ms,
        after=after_sample,
        most=MOST_QUARANTINED,
    )
    query = {name: value for name, value in (("reason", reason), ("why", why)) if value}
    tables = [_orgs(orgs, reason, query, ask.text("after")),
              _quarantine(samples.samples, samples.next_after, query, after_sample)]  # fmt: skip
    if not ask.text("after") and not after_sample:
        unmapped = _unmapped(unmapped_sizes(connection), unmapped_events(connection))
        tables = [_reasons(reasons, held, beside), tables[0], unmapped, tables[1]]
    filters = (
        Filter("reason", "Waits for", reason, [("", "any reason"), *((name, what) for name, what in WHAT.items())]),
        Filter(
            "why",
            "Quarantined for",
            why,
            [("", "any reason"), *((name, _words(name)) for name in sorted({*held, *([why] if why else [])}))],
        ),
    )
    return shown(Shown(PATH, tables, tiles=_tiles(reasons, held, beside), filters=filters, query=query))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _tiles(reasons: list[PendingUsage], held: Mapping[str, int], beside: Beside) -> list[Tile]:
    seconds, units = sum(one.seconds for one in reasons), sum(one.units for one in reasons)
    samples = sum(held.values())

    def tile(name: str, count: int, said: str) -> Tile:
        return Tile(name, figures.count(count), said, "warn" if count else "")

    return [
        tile("Seconds pending", seconds, "of sandboxes, billed to nobody yet"),
        tile("Units pending", units, "that event types count"),
        tile("Quarantined", samples, f"samples that cannot be billed; {beside.late:,} too late, below a floor"),
        tile("To be sealed again", beside.dirty_windows, "windows, by the next tick"),
        tile("Dated ahead", beside.dated_ahead, "samples, billed when their time has come"),
    ]


def _reasons(reasons: list[PendingUsage], held: Mapping[str, int], beside: Beside) -> Table:
    rows = [
        (
            Cell(WHAT[one.reason], href=url(PATH, reason=one.reason)),
            Cell(how_much(one), "number"),
            cells_of.number(one.orgs),
            cells_of.time(one.since_ms, narrow=False),
            Cell(PENDING[one.reason], "step"),
        )
        for one in reasons
    ]
    for name, samples in held.items():
        mend = "drawdown sample dismiss" if name == LATE else "drawdown sample mend, or dismiss"
        much = f"{samples:,} sample{'' if samples == 1 else 's'}"
        rows.append(
            (Cell(f"quarantined: {_words(name)}", href=url(PATH, why=name)), Cell(much, "number"),
             Cell(figures.UNKNOWN, "number"), Cell(figures.UNKNOWN, narrow=False), Cell(mend, "step"))
        )  # fmt: skip
    heads = ("Why it waits", "#How much", "#Organisations", "Oldest window, UTC", "What mends it")
    return Table("By reason", heads, rows, "Nothing waits: all that was used is sealed.", "drawdown status")


def _orgs(found: PendingPage, reason: str, query: Mapping[str, str], after: str) -> Table:
    rows = [
        (
            replace(cells_of.org(one.org_id, "assignment"), links=_mends(one)),
            Cell(WHAT[one.reason]),
            cells_of.number(one.seconds),
            cells_of.number(one.units, narrow=False),
            cells_of.number(one.samples, narrow=False),
            cells_of.time(one.since_ms),
        )
        for one in found.orgs
    ]
    heads = ("Organisation", "Why it waits", "#Seconds", "#Units", "#Samples", "Oldest window, UTC")
    return Table(
        "By organisation", heads, rows, "No usage of an organisation waits." if not reason else "None waits for that.",
        "drawdown org list --state unassigned",
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        first=url(PATH, **query) if after else "",
    )  # fmt: skip


def _mends(one: PendingOrg) -> tuple[Link, ...]:
    """An assignment mends all but what has no feature."""
    return () if one.reason == "no_mapping" else (act("Assign", "assign", id=one.org_id),)


def _map_size(memory_mb: int) -> tuple[Link, ...]:
    return (act("Map", "feature-map", "admin", memory_mb=memory_mb),)


def _map_event(one: UnmappedEvent) -> tuple[Link, ...]:
    return () if one.metric else (act("Map", "feature-map-event", "admin", type=one.event_type),)


def _mends_event(one: UnmappedEvent) -> str:
    if one.metric:
        return f"drawdown event withdraw SOURCE ID, then drawdown guard consume: {one.metric} charges for it at once"
    return f"drawdown feature map-event {typed(one.event_type, 'FEATURE')}"


def _unmapped(sizes: list[UnmappedSize], events: list[UnmappedEvent]) -> Table:
    rows = [
        (Cell(f"{one.memory_mb:,} MB", links=_map_size(one.memory_mb)), cells_of.number(one.seconds),
         cells_of.number(one.samples, narrow=False), cells_of.number(one.orgs),
         Cell(f"drawdown feature map FEATURE --memory-mb {one.memory_mb}", "step"))
        for one in sizes
    ] + [
        (Cell(one.event_type, "id", links=_map_event(one)), cells_of.number(one.units),
         cells_of.number(one.events, narrow=False), cells_of.number(one.orgs), Cell(_mends_event(one), "step"))
        for one in events
    ]  # fmt: skip
    heads = ("Size, or event type", "#Seconds, or units", "#Samples", "#Organisations", "What mends it")
    none = "Each size and each event type that is used makes a feature."
    return Table("Used, and without a feature", heads, rows, none, "drawdown feature list")


def _quarantine(samples: list[SampleRow], next_after: str | None, query: Mapping[str, str], after: str) -> Table:
    rows = [
        (
            Cell(one.sample_id, "id", links=_sample_acts(one)),
            cells_of.org(one.org_id),
            Cell(_words(one.reason or "")),
            Cell(one.ts, "id", narrow=False),
            Cell(_meant(one), narrow=False),
            cells_of.time(one.came_ms),
        )
        for one in samples
    ]
    heads = ("Sample", "Organisation", "Quarantined for", "Its time, as written", "Taken to mean, UTC", "Came, UTC")
    return Table(
        "Quarantined samples", heads, rows, "No sample is in quarantine.", "drawdown sample list --quarantined",
        next="" if next_after is None else url(PATH, **query, after_sample=next_after),
        first=url(PATH, **query) if after else "",
    )  # fmt: skip


def _sample_acts(one: SampleRow) -> tuple[Link, ...]:
    aside = act("Set aside", "sample-dismiss", "admin", id=one.sample_id)
    return (aside,) if one.meant_ms is None else (act("Mend", "sample-mend", id=one.sample_id), aside)


def _meant(one: SampleRow) -> str:
    return figures.UNKNOWN if one.meant_ms is None else f"{figures.time(one.meant_ms)}, as {one.meant_as}"
