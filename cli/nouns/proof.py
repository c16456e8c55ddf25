"""`drawdown proof`: what runs of `verify` found."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import Most
from drawdown.cli.rendering import show, table
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.checks import proofs


def proof(
    context: typer.Context,
    before: Annotated[int, typer.Option(min=0, help="Go on before this run: the last one of a page")] = 0,
    most: Most = 20,
) -> None:
    """Show when each invariant last held, by which run of `verify`, and what runs found. `verify` proves them again."""
    app: App = context.obj
    held = app.read(proofs.standing)
    page = app.read(lambda c: proofs.list_runs(c, before=before, most=most))
    words = {True: "holds", False: "BROKEN", None: "not proven"}
    standing = [
        (one.invariant, one.name, words[one.holds], show_time(one.held_ms), one.held_by, show_time(one.broken_ms))
        for one in held
    ]
    runs = [
        (run.number, show_time(run.at_ms), "all" if run.orgs is None else run.orgs,
         "all" if run.from_ms is None else f"from {show_time(run.from_ms)}, after run {run.follows}",
         run.breaches, run.doubted or "",
         ", ".join(f"{count:,} {name}" for name, count in run.checked.items()), f"{run.took_ms / 1000:.1f} s",
         run.actor)
        for run in page.runs
    ]  # fmt: skip
    columns = ("#", "invariant", "", "last held", "#by run", "last broken")
    heads = ("#run", "at", "organisations", "windows", "#breaches", "doubted", "looked at", "took", "by")
    more = [f"there are older ones: --before {page.next_before}"] if page.next_before is not None else []
    last = app.read(lambda c: proofs.last_held(c, app.clock.now_ms()))
    held_last = [
        f"all held last: looking at all of it {show_time(last.whole_ms) or 'never on record'}, "
        f"since the last run {show_time(last.continued_ms) or 'never on record'}"
    ]
    tables: list[str | Table] = [
        *held_last,
        table("Invariants", columns, standing),
        table("Runs of verify", heads, runs),
        *more,
    ]
    result = {"invariants": held, "runs": page.runs, "next_before": page.next_before, "last_held": last}
    show(app, result, tables)
