"""`drawdown event summary`: usage events as they may be published."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.rendering import show, table
from drawdown.worker.usage.privacy import summarise


def summary(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="From this day on, in UTC")],
    to: Annotated[str, typer.Option("--to", help="Up to this day")] = "today",
) -> None:
    """Sum up usage events by plan, kind and day, so that it may be published.

    Each row is of five organisations at least; the rest stands under `other`, or is left out where it is of fewer. What
    is private in a plan or kind has it refused: the place and the rule are named.
    """
    app: App = context.obj
    start, end = app.past(from_, "--from"), app.moment(to, "--to")
    report = app.read(lambda c: summarise(c, start, end, app.clock.now_ms(), app.settings.secrets()))
    columns = ("day", "kind", "plan", "#events", "#quantity")
    rows = [[row[name.lstrip("#")] for name in columns] for row in report["rows"]]
    notes = ["something is left out: it is of fewer organisations"] if report["withheld"] else []
    show(app, report, [table(f"Usage from {report['from']} to {report['to']}", columns, rows), *notes])
