"""Show the last comparisons with providers' totals, with differences first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS, show_difference
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, PageContent, Table, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money import cells
from drawdown.worker.reconcile import lists as reconciliations
from drawdown.worker.reconcile.acknowledgement import Unbilled, find_unbilled
from drawdown.worker.reconcile.lists import (
    MOST_COUNTED,
    After,
    Compared,
    ComparedAt,
    ComparedFilter,
    UnacknowledgedDifference,
)

PATH: Final = "/console/reconcile"
TONES: Final = {"short": "bad", "over": "bad"}
WORDS: Final = {"short": "short: the provider has less", "over": "over: the provider has more", "equal": "equal",
                "shadow": "shadow: another system bills"}  # fmt: skip
COLUMNS: Final = ("day", "org_id", "provider", "customer_id", "feature", "verdict", "compared_at", "ours", "theirs")
HEADS: Final = ("Day, UTC", "Organisation", "Provider", "Feature", "#Ours", "#Theirs", "#Difference", "Verdict",
                "Compared, UTC")  # fmt: skip


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(ask)
    after = _after(ask)
    found = reconciliations.page(connection, chosen, after)
    query = {name: value for name, value in vars(chosen).items() if value}
    filters = [
        Filter("verdict", "Verdict", chosen.verdict, [("", "any"), *WORDS.items()]),
        Filter("provider", "Provider", chosen.provider),
        Filter("org", "Organisation", chosen.org),
    ]
    compared, told, unbilled = (
        reconciliations.runs(connection),
        _differences_table(reconciliations.list_unacknowledged(connection)),
        _unbilled_tables(find_unbilled(connection)),
    )
    kept = cells.command("reconcile", "--kept", *_as_typed(chosen))
    following = (
        url(PATH, **query, **{f"after_{name}": value for name, value in asdict(found.after).items()})
        if found.after
        else ""
    )
    tables = [
        *([_differing(connection, chosen, kept)] if chosen.verdict in ("", *TONES) else []),
        _runs(compared),
        told,
        *unbilled,
        Table("Compared days, the latest first", HEADS, [row(one) for one in found.lines],
              "No day matches the filter.", kept, following, first="" if after is None else url(PATH, **query)),
    ]  # fmt: skip
    if not compared:  # one table replaces the empty ones
        none = "No comparison exists yet. A comparison reads the providers' totals."
        tables = [
            Table("Differences", HEADS, [], none, "drawdown reconcile"),
            *([told] if told.rows else []),
            *unbilled,
        ]
    return to_context(PageContent(PATH, tables, filters=filters, query=query, file=url(f"{PATH}.csv", **query)))


def _differing(connection: sa.Connection, chosen: ComparedFilter, kept: str) -> Table:
    """Return the table of differences that match the filter."""
    found = reconciliations.differing(connection, chosen)
    none = (
        "The last comparison found no difference."
        if chosen == ComparedFilter()
        else "No difference matches the filter."
    )
    note = (
        f"This table shows the first {len(found)} differences." if len(found) >= reconciliations.MOST_DIFFERING else ""
    )
    return Table("Differences", HEADS, [row(one, correct=True) for one in found], none, kept, note=note)


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the comparisons of the filter as lines of CSV."""
    yield csv_line(COLUMNS)
    for one in reconciliations.every(connection, _chosen(ask)):
        texts = (figures.day(one.day_ms), one.org_id, one.provider, one.customer_id, one.feature, one.verdict)
        yield csv_line((*texts, figures.iso(one.at_ms)), (one.ours_qty, one.theirs_qty))


def _chosen(ask: Ask) -> ComparedFilter:
    verdict = ask.choice("verdict", ("", *reconciliations.VERDICTS))
    return ComparedFilter(ask.text("provider"), ask.text("org"), verdict)


def _as_typed(chosen: ComparedFilter) -> list[str]:
    options = [chosen.org] if chosen.org else []
    options += ["--provider", chosen.provider] if chosen.provider else []
    return options


def _after(ask: Ask) -> After | None:
    day = ask.whole("after_day_ms")
    names = ("after_org", "after_provider", "after_customer", "after_feature")
    texts = [ask.text(name) for name in names]
    return None if day is None else After(day, *texts)


def row(one: Compared, *, correct: bool = False) -> tuple[Cell, ...]:
    """Return the row of a comparison.

    `correct`: True to add the action that corrects this organisation, provider and day.
    """
    day, next_day = figures.day(one.day_ms), figures.day(one.day_ms + DAY_MS)
    whose = {"org": one.org_id, "provider": one.provider, "from": day, "to": next_day}
    links = (act("Correct", "reconcile-correct", "admin", **whose),) if correct else ()
    return (
        cells.day(one.day_ms),
        cells.org(one.org_id),
        Cell(one.provider, "id", narrow=False),
        Cell(one.feature, "id", narrow=False),
        cells.count(one.ours_qty),
        cells.count(one.theirs_qty),
        cells.count(one.theirs_qty - one.ours_qty, narrow=False),
        Cell(one.verdict, "state", TONES.get(one.verdict, ""), links=links),
        cells.time(one.at_ms, narrow=False),
    )


def _runs(found: list[ComparedAt]) -> Table:
    rows = [(cells.time(one.at_ms), _counted(one.lines), _counted(one.differing)) for one in found]
    heads = ("Time, UTC", "#Lines", "#Different lines")
    note = "Each line counts once, in its last comparison."
    return Table("Last comparisons", heads, rows, "", "drawdown reconcile", note=note)


def _counted(number: int) -> Cell:
    return Cell(f"{number:,} or more" if number >= MOST_COUNTED else f"{number:,}", "number")


def _differences_table(found: list[UnacknowledgedDifference]) -> Table:
    rows = [
        (cells.time(one.told_ms), _told_org(one), Cell(one.provider, "id"),
         Cell(one.feature, "id", narrow=False),
         Cell(show_difference(one.told_qty, one.unsure_qty, one.scale), "number"))
        for one in found
    ]  # fmt: skip
    heads = ("Reported, UTC", "Organisation", "Provider", "Feature", "#Unexplained use")
    none = "No balance difference waits for acknowledgement."
    return Table("Balance differences to acknowledge", heads, rows, none, "drawdown reconcile --acknowledge")


def _unbilled_tables(found: list[Unbilled]) -> list[Table]:
    """Return the table of unbilled days, or an empty list."""
    rows = [
        (_told_org(one), Cell(one.provider, "id"), Cell(one.customer_id, "id"), Cell(f"{one.days:,}", "number"),
         Cell(one.worth))
        for one in found
    ]  # fmt: skip
    heads = ("Organisation", "Provider", "Customer", "#Days", "Usage")
    table = Table("Unbilled days to acknowledge", heads, rows, "", "drawdown reconcile ORG --acknowledge")
    return [table] if rows else []


def _told_org(one: UnacknowledgedDifference | Unbilled) -> Cell:
    links = (act("Acknowledge", "reconcile-acknowledge", org=one.org_id),)
    return Cell(one.org_id, "id", href=url("/console/org", id=one.org_id), links=links)
