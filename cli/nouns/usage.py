"""`drawdown usage`: show one organisation's usage as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.options import Org
from drawdown.cli.rendering import show, table
from drawdown.cli.streams import print_file
from drawdown.ledger.calendar import start_of
from drawdown.schema.errors import UsageError
from drawdown.schema.text import no_formula
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.usage.lists import BY, OF_SAMPLES, UsageReport, read_usage, until_now


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("usage")(usage)


def usage(
    context: typer.Context,
    org: Org,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="First window; the first of this month if omitted (UTC)"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="End of the range; the end of the current window if omitted"),
    ] = None,
    by: Annotated[str, typer.Option(help=f"Group of a row: {', '.join(BY)}")] = "feature",
    as_csv: Annotated[bool, typer.Option("--csv", help="Output as CSV, safe to open in a spreadsheet")] = False,
) -> None:
    """Show an organisation's usage and its sealed part.

    Quantities are in base units: seconds, MB-seconds, or units of events. The used quantity is the sum of the samples
    in force. Usage that is not sealed waits until its window closes, or until it has a provider or a feature.
    """
    app: App = context.obj
    if as_csv and app.json:
        raise UsageError("specify either --csv or --json, not both")
    start, end = app.window(from_, "--from"), app.window(to, "--to")
    start = start_of(app.clock.now_ms()) if start is None else start
    end = until_now(app.clock.now_ms()) if end is None else end
    found = app.read(lambda c: read_usage(c, org, start, end, by))
    if as_csv:
        return _print_csv(found)
    what = "" if by == "feature" else by
    columns = (what, "feature", "unit", "#used", *(() if by in OF_SAMPLES else ("#sealed", "#not sealed")))
    rows = [tuple(line) for line in _table_rows(found)]
    title = f"{org}, {show_time(start)} to {show_time(end)}"
    notes = (
        ["the samples at the start of the range were pruned. For them, `used` shows the sealed quantity"]
        if found.pruned
        else []
    )
    notes += [
        f"sealed, not sent yet, and carried to a later window: {carry.quantity:,} of {carry.feature} at "
        f"{carry.provider}"
        for carry in found.carried
    ]
    result = {"usage": found, "used": _sum(found, "used"), "sealed": _sum(found, "sealed")}
    return show(app, result, [table(title, columns[0 if what else 1 :], rows), *notes])


def _table_rows(found: UsageReport) -> list[list[object]]:
    lines: list[list[object]] = []
    nothing = "none" if found.by in ("project", "subject") else "pruned"
    for row in found.rows:
        sealed = [] if row.sealed is None else [row.sealed, row.used - row.sealed]
        line: list[object] = [row.group or nothing, row.feature or "no feature", row.unit, row.used, *sealed]
        lines.append(line[1:] if found.by == "feature" else line)
    return lines


def _sum(found: UsageReport, name: str) -> dict[str, int | None]:
    """Return the sums by unit. Seconds and MB-seconds are never added."""
    if name == "sealed" and found.by in OF_SAMPLES:
        return {}
    units = sorted({row.unit for row in found.rows})
    return {unit: sum(getattr(row, name) for row in found.rows if row.unit == unit) for unit in units}


def _print_csv(found: UsageReport) -> None:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    what = [] if found.by == "feature" else [found.by]
    out.writerow(["org_id", *what, "feature", "unit", "used", "sealed"])
    for row in found.rows:
        key = [no_formula(row.group)] if what else []
        out.writerow([no_formula(found.org_id), *key, no_formula(row.feature), row.unit, row.used, row.sealed])
    print_file([text.getvalue()])
