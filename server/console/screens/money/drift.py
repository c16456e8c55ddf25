"""Show differences from vendors' bills and from the counts of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_percent
from drawdown.schema.units import DAY_MS
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, PageContent, Table, Tile, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money import cells
from drawdown.worker.checks.checks import LastCheck, last_checks
from drawdown.worker.parity import lists as parity
from drawdown.worker.parity.lists import ParityLine
from drawdown.worker.parity.parity import ALERTING
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import LEAST_MICRO, TOLERANCE_PPM, DriftLine

PATH: Final = "/console/drift"
DAYS: Final = (7, 3, 14)
"""Choices of days of bills on the page. The page sums all usage of each day."""
MOST_DRIFT: Final = 200
"""Lines of bills that a page shows."""
BOUNDS: Final = f"by more than {show_percent(TOLERANCE_PPM)}, and by {figures.credits(LEAST_MICRO)} or more"
COLUMNS: Final = ("day", "vendor", "service", "currency", "state", "verdict", "estimated", "billed")
WORDS: Final = {"unbilled": "no bill yet", "unmapped": "no feature is mapped to it"}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    days = ask.number("days", DAYS)
    lines_of = sorted(
        _drift_lines(connection, ask), key=lambda one: (-one.day_ms, one.vendor, one.service, one.currency)
    )
    since = _span(ask)[0]
    whole, differing = parity.parity_found(connection, since)
    kept = last_checks(connection).get("vendors")
    looked = "never, so no alert can fire" if kept is None else _last(kept)
    off, alerts = sum(one.is_off for one in lines_of), sum(one.alerts for one in lines_of)
    alerting = sum(one.verdict in ALERTING for one in differing)
    tiles = [
        Tile("Bill lines", figures.count(len(lines_of)), f"vendor, service and day, {days} days"),
        Tile("Drifting lines", figures.count(off), BOUNDS, "bad" if off else ""),
        Tile("Alerts", figures.count(alerts), "difference on two successive days", "bad" if alerts else ""),
        Tile("Differing cell days", figures.count(alerting), "organisations, by parity", "bad" if alerting else ""),
    ]
    chosen = "" if days == DAYS[0] else str(days)
    filters = [Filter("days", "Days", chosen, [(str(one), f"{one} days") for one in DAYS])]
    tables = [_bills(lines_of, since, looked), _differing(differing), _cells(whole)]
    query = {"days": days}
    return to_context(
        PageContent(PATH, tables, tiles=tiles, filters=filters, query=query, file=url(f"{PATH}.csv", **query))
    )


def _last(kept: LastCheck) -> str:
    alerts = f"{counted(kept.alerts, 'alert')}, some maybe on earlier days: `drawdown vendor drift`"
    return f"{figures.time(kept.at_ms)} UTC" + (f", {alerts}" if kept.alerts else "")


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the lines of the chosen days."""
    yield csv_line(COLUMNS)
    for one in _drift_lines(connection, ask):
        texts = (figures.day(one.day_ms), one.vendor, one.service, one.currency, one.state, verdict(one))
        yield csv_line(texts, (figures.plain(one.estimated_micro), figures.plain(one.billed_micro)))


def _drift_lines(connection: sa.Connection, ask: Ask) -> list[DriftLine]:
    return vendors.drift(connection, *_span(ask), ask.now_ms, TOLERANCE_PPM, LEAST_MICRO)


def _span(ask: Ask) -> tuple[int, int]:
    """Return the start and the end of the chosen days, in milliseconds.

    The last day is yesterday.
    """
    today = ask.now_ms - ask.now_ms % DAY_MS
    return today - ask.number("days", DAYS) * DAY_MS, today


def _bills(found: Sequence[DriftLine], from_ms: int, looked: str) -> Table:
    rows = [
        (
            cells.day(one.day_ms),
            Cell(one.vendor, "id"),
            Cell(one.service, "id", narrow=False),
            Cell(figures.credits(one.estimated_micro), "number"),
            Cell(figures.credits(one.billed_micro), "number"),
            Cell(one.currency, narrow=False),
            Cell(apart(one), "number"),
            _verdict(one),
            Cell(WORDS.get(one.state, one.state), narrow=False),
        )
        for one in found[:MOST_DRIFT]
    ]
    heads = ("Day, UTC", "Vendor", "Service", "#Estimated", "#Billed", "Currency", "#Difference, %", "Drift", "Bill")
    note = f"Amounts are in the vendor's currency. Last record for metrics and the alert: {looked}."
    if len(found) > MOST_DRIFT:
        note += f" This page shows the latest {MOST_DRIFT} of {len(found):,}. The CSV has all lines."
    none = "No bill and no mapping to a vendor's service exists for these days."
    command = f"drawdown vendor drift --from {figures.day(from_ms)}" if rows else "drawdown vendor import bills.csv"
    return Table("Estimates and bills", heads, rows, none, command, note=note)


def apart(one: DriftLine) -> str:
    """Return the difference between bill and estimate, in per cent of the estimate.

    The result has one decimal, with halves rounded away from zero.
    """
    if one.billed_micro is None or not one.estimated_micro:
        return figures.UNKNOWN
    more, size = one.billed_micro - one.estimated_micro, abs(one.estimated_micro)
    tenths = (2_000 * abs(more) + size) // (2 * size)
    sign = "" if not tenths else "+" if (more > 0) == (one.estimated_micro > 0) else figures.MINUS
    return f"{sign}{tenths // 10}.{tenths % 10}"


def verdict(one: DriftLine) -> str:
    """Return the verdict of a line: alert, off, within or unknown.

    A line without a bill or an estimate is unknown.
    """
    if one.alerts:
        return "alert"
    if one.is_off:
        return "off"
    return "unknown" if one.billed_micro is None or one.estimated_micro is None else "within"


def _verdict(one: DriftLine) -> Cell:
    return Cell(verdict(one), "state", "bad") if one.is_off else Cell(verdict(one))


def _differing(found: Sequence[ParityLine]) -> Table:
    rows = [(*_parity(one), cells.org(one.org_id) if one.org_id else Cell("the whole cell"),
             Cell(one.verdict, "state", "bad" if one.verdict in ALERTING else "warn"))
            for one in found]  # fmt: skip
    heads = (*PARITY_HEADS, "Organisation", "Verdict")
    none = "The last comparison found no difference between the cells' counts and Drawdown's."
    return Table("Parity: differences and unknown counts", heads, rows, none, "drawdown parity check --cells")


PARITY_HEADS: Final = ("Day, UTC", "Cell", "#Ours, s", "#Theirs, s", "#Difference, s", "#Difference, ppm")


def _parity(one: ParityLine) -> tuple[Cell, ...]:
    return (
        cells.day(one.day_ms),
        Cell(one.cell_id or "all cells", "id"),
        cells.count(one.ours_s),
        cells.count(one.theirs_s),
        cells.count(one.off_s, narrow=False),
        cells.count(one.ppm, narrow=False),
    )


def _cells(found: Sequence[ParityLine]) -> Table:
    rows = [
        (*_parity(one), Cell("unread", "state", "warn") if one.verdict == "unread" else Cell("compared"),
         cells.time(one.at_ms, narrow=False))
        for one in found
    ]  # fmt: skip
    heads = (*PARITY_HEADS, "Result", "Compared, UTC")
    none = "No comparison with a cell's own count exists for these days."
    return Table("Parity: cells' days", heads, rows, none, "drawdown parity check --cells")
