"""Show ticks by the hour, the ticks of one hour, and one tick with its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import HOUR_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, PageContent, Table, Tile, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.status.ticks import LAST_TICK, PAGE_ROWS, TickDone, latest_ticks, one_tick

PATH: Final = "/console/ticks"
ENDS: Final = {0: ("all settled", ""), 75: ("left work", "warn"), 1: ("needs a person", "bad")}
TONES: Final = ("bad", "warn", "")
COUNTED: Final = {
    "sealed": "Sealed", "accepted": "Accepted", "projected": "Read", "halted": "Halted",
    "halts_acknowledged": "Acknowledged",
}  # fmt: skip
"""Figures of a tick's report in lists, with the heads of their columns."""
PARTS: Final = {
    "sealed": "pushes made from closed windows",
    "swept": "windows with late samples",
    "looked_up": "pushes in doubt or queued, looked up at a provider",
    "adopted": "pushes found at a provider with another quantity",
    "voided": "pushes not found at a provider, owed again",
    "accepted": "pushes that providers charged",
    "not_accepted": "pushes that providers did not charge",
    "projected": "organisations whose balance was read",
    "halted": "organisations, by the read balance",
    "resumed": "organisations, by the read balance",
    "halts_acknowledged": "halts, by cells",
    "halts_failed": "halts that a cell did not take; retried",
    "topped_up": "wallets filled by a charge",
    "charges_declined": "automatic top-ups not paid",
    "messages_delivered": "messages to your endpoints",
    "messages_failed": "messages not taken; retried",
    "jobs_ended": "queued jobs, such as replays",
}
"""Figures of a tick's report with their meaning, in the order of its steps."""
WRONG: Final = (("problems", "problem", "bad"), ("stopped_orgs", "stopped", "bad"), ("failures", "failure", "warn"))
LEFT: Final = {"pending_s": "seconds pending", "pending_units": "units pending", "quarantined": "samples quarantined"}
NO_REPORT: Final = "The tick has no report yet."


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    before, opened = ask.whole("before"), ask.instant("hour")
    found = latest_ticks(connection, LAST_TICK if before is None else before, PAGE_ROWS + 1)
    hours: dict[int, list[TickDone]] = {}
    for one in found[:PAGE_ROWS]:
        hours.setdefault(one.started_ms - one.started_ms % HOUR_MS, []).append(one)
    following = ""
    if len(found) > PAGE_ROWS:
        if len(hours) > 1:
            hours.popitem()  # the hour's first ticks may be on the next page
        following = url(PATH, before=list(hours.values())[-1][-1].tick_id)
    tiles = _tiles([one for ticks in hours.values() for one in ticks], ask.now_ms)
    if opened is not None:
        return to_context(_of_hour(opened, hours.get(opened, []), before))
    rows = [_hour(at_ms, ticks) for at_ms, ticks in hours.items()]
    heads = ("Hour, UTC", "#Ticks", "Result", "#Longest, s", *(f"#{words}" for words in COUNTED.values()))
    none = "No tick exists yet."
    first = "" if before is None else PATH
    table = Table("Ticks by the hour, the newest first", heads, rows, none, "drawdown tick", following, first=first)
    return to_context(PageContent(PATH, [table], tiles=tiles))


def _hour(at_ms: int, ticks: list[TickDone]) -> tuple[Cell, ...]:
    """Return the row of an hour: the sums of its ticks, and the worst result.

    If results differ, the row has the number of ticks with the worst result.
    """
    ends = Counter(_ended(one) for one in ticks)
    worst = min(ends, key=lambda one: (TONES.index(one.tone), one.text))
    calm = len(ticks) == ends[worst]
    took = max((one.finished_ms - one.started_ms for one in ticks if one.finished_ms is not None), default=None)
    return (
        Cell(figures.time(at_ms), "time", href=url(PATH, before=ticks[0].tick_id + 1, hour=at_ms)),
        cells_of.number(len(ticks)),
        replace(worst, under="" if calm else f"{ends[worst]:,} of them"),
        Cell(figures.UNKNOWN if took is None else f"{took / 1000:,.1f}", "number", narrow=False),
        *(cells_of.number(sum(one.count(name) or 0 for one in ticks), narrow=name == "accepted") for name in COUNTED),
    )


def _of_hour(at_ms: int, ticks: list[TickDone], before: int | None) -> PageContent:
    heads = (
        "Started, UTC",
        "Result",
        "#Duration, s",
        *(f"#{words}" for words in COUNTED.values()),
        "Worker",
        "Buckets",
    )
    rows = [_row(one) for one in ticks]
    table = Table("Ticks, the newest first", heads, rows, "No tick began in this hour.", "drawdown tick")
    query = {"before": before, "hour": at_ms}
    return PageContent(
        PATH, [table], query=query, above=Link("Ticks", PATH), heading=f"Ticks of {figures.time(at_ms)} UTC"
    )


def _tiles(found: list[TickDone], now_ms: int) -> list[Tile]:
    took = sorted(one.finished_ms - one.started_ms for one in found if one.finished_ms is not None)
    slow = figures.count(took[len(took) * 95 // 100]) if took else figures.UNKNOWN
    needy, left = (sum(one.exit_status == status for one in found) for status in (1, 75))
    began = found[0].started_ms if found else None
    of = f"of {len(found):,} ticks"
    return [
        Tile("Last tick", figures.ago(began, now_ms), figures.time(began)),
        Tile("Duration, 95th percentile, ms", slow, of),
        Tile("Ticks with work left", figures.count(left), of, "warn" if left else ""),
        Tile("Ticks that need a person", figures.count(needy), of, "bad" if needy else ""),
    ]


def _ended(one: TickDone) -> Cell:
    if one.exit_status is None:
        return Cell("not ended", "state", "warn")
    word, tone = ENDS.get(one.exit_status, (f"exit status {one.exit_status}", "warn"))
    return Cell(word, "state", tone)


def _took(one: TickDone) -> str:
    return figures.UNKNOWN if one.finished_ms is None else f"{(one.finished_ms - one.started_ms) / 1000:,.1f}"


def _row(one: TickDone) -> tuple[Cell, ...]:
    return (
        Cell(figures.time(one.started_ms), "time", href=url("/console/tick", id=one.tick_id)),
        _ended(one),
        Cell(_took(one), "number"),
        *(cells_of.number(one.count(name), narrow=name == "accepted") for name in COUNTED),
        Cell(one.worker, "id", narrow=False),
        Cell(f"{one.bucket_lo} to {one.bucket_hi}", narrow=False),
    )


def read_one(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    """Return the page of a tick with its report."""
    ask.required("id")
    one = one_tick(connection, ask.whole("id") or 0)
    trusted = "trusted" if one.clock_trusted else "not trusted"
    page = PageContent(
        "/console/tick",
        [_wrong(one), _did(one), _accepted(one), _left_table(one)],
        tiles=[
            Tile("Result", _ended(one).text, "", _ended(one).tone),
            Tile("Duration, s", _took(one), f"started {figures.time(one.started_ms)}"),
            Tile("Buckets", f"{one.bucket_lo} to {one.bucket_hi}", "of 256 groups of organisations"),
            Tile("Clock", trusted, "compared with the database and providers", "" if one.clock_trusted else "warn"),
        ],
        query={"id": one.tick_id},
        note=f"By {one.worker}.",
        above=Link("Ticks", PATH),
        heading=f"Tick {one.tick_id}",
    )
    return to_context(page)


def _wrong(one: TickDone) -> Table:
    rows = [
        (Cell(kind, "state", tone), Cell(line, "id")) for name, kind, tone in WRONG for line in one.report_lines(name)
    ]
    none = "The tick had no errors." if one.report else NO_REPORT
    if one.report and (one.exit_status == 1 or one.count("not_accepted")):
        none = "The tick had no errors. The tables below show pushes that were not accepted, and work left."
    return Table("Errors", ("Kind", "Message"), rows, none, "drawdown status")


def _did(one: TickDone) -> Table:
    rows = [
        (Cell(name.replace("_", " ")), cells_of.number(one.count(name)), Cell(what))
        for name, what in PARTS.items()
        if one.count(name)
    ]
    note = "All other figures of the tick are zero." if rows else ""
    none = "The tick had no work." if one.report else NO_REPORT
    return Table("Work done", ("Step", "#Count", "Meaning"), rows, none, "drawdown tick", note=note)


def _accepted(one: TickDone) -> Table:
    at = one.report.get("accepted_at")
    counts = sorted(at.items()) if isinstance(at, Mapping) else []
    rows = [(Cell(name, "id"), cells_of.number(int(count))) for name, count in counts]
    return Table(
        "Accepted, by provider", ("Provider", "#Pushes"), rows, "The tick did not send a push.", "drawdown push list"
    )


def _left_table(one: TickDone) -> Table:
    left = one.report.get("left")
    counts = sorted(left.items()) if isinstance(left, Mapping) else []
    rows = [
        (cells_of.number(value), Cell(name.replace("_", " ")))
        for name, value in counts
        if isinstance(value, int) and value
    ]
    for name in ("pending_s", "pending_units", "quarantined"):
        parts = left.get(name) if isinstance(left, Mapping) else None
        some = sorted(parts.items()) if isinstance(parts, Mapping) else []
        rows += [(cells_of.number(int(count)), Cell(f"{LEFT[name]}: {why.replace('_', ' ')}")) for why, count in some]
    none = "The tick left no work." if one.report else NO_REPORT
    return Table("Work left", ("#Count", "Kind"), rows, none, "drawdown status")
