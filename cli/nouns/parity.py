"""`drawdown parity`: compare cells' own counts with the samples from them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.options import only_with
from drawdown.cli.rendering import show, table
from drawdown.schema.errors import UsageError
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import parse_percent, show_percent, show_time
from drawdown.schema.units import DAY_MS
from drawdown.worker.engine.runner import run
from drawdown.worker.parity.lists import parity_found
from drawdown.worker.parity.parity import TOLERANCE_PPM, Checked, Line, check_cells, check_totals, days_due
from drawdown.worker.parity.totals import MAX_DAYS, day_text, read_file

commands = typer.Typer()

SHOWN: Final = 100
"""Maximum number of rows of a table for people."""
TOLERANCE: Final = show_percent(TOLERANCE_PPM).removesuffix(" %")


@commands.command()
def check(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="CSV or JSON lines: day, org_id, seconds, memory_mb, cell_id")
    ] = "",
    cells: Annotated[bool, typer.Option("--cells", help="Registered cells to call, in place of a file")] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="First day in UTC, for --cells", show_default="the days that are due")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Day after the last day in UTC; requires --from", show_default="today")
    ] = None,
    tolerance: Annotated[str, typer.Option(help="Largest difference to ignore, in per cent")] = TOLERANCE,
) -> None:
    """Compare samples with the usage that cells count.

    The comparison is by organisation and day. Without --from, it covers yesterday, and the days of the last week that
    earlier checks missed or could not read at a cell. The exit status is 1 if a count differs, if only one side knows
    an organisation, or if samples of the day were deleted. Otherwise it is 75 if a cell could not be read, or until 15
    minutes after the end of a day.
    """
    app: App = context.obj
    tolerance_ppm = parse_percent(tolerance)
    if cells == bool(file):
        raise UsageError("specify either a FILE of totals or --cells, not both")
    if file:
        only_with(context, "FILE", "file", "tolerance")
        steps = check_totals(read_file(file), tolerance_ppm, app.clock)
    elif from_ is None and to is not None:
        raise UsageError("cannot use --to alone: the first day is unknown. Pass --from as well")
    else:
        days = app.read(lambda c: days_due(c, app.clock.now_ms())) if from_ is None else _days(app, from_, to)
        steps = check_cells(days, tolerance_ppm, app.clock)
    app.ready()
    app.require_clock()
    found = run(steps, app.world())
    show(app, {"parity": {**asdict(found), "exit_status": found.exit_status}}, _report(found, tolerance_ppm))
    raise typer.Exit(found.exit_status)


@commands.command("show")
def show_(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="First day, in UTC")] = "7d",
) -> None:
    """Show the last comparison with cells.

    The command lists the cell-days, the differences, and the unknown counts. It does not call cells.
    """
    app: App = context.obj
    since = app.past(from_, "--from")
    cells, found = app.read(lambda c: parity_found(c, since - since % DAY_MS))
    columns = ("day", "cell", "org", "#ours", "#theirs", "#withdrawn", "#apart", "#ppm", "")
    tables = [
        table(title, columns, [
            (day_text(one.day_ms), one.cell_id or "all", one.org_id or "all", one.ours_s, one.theirs_s, one.withdrawn_s,
             one.off_s, one.ppm, one.verdict) for one in lines
        ])
        for title, lines in (("Cells' days, in seconds", cells), ("Differing and unknown days, in seconds", found))
    ]  # fmt: skip
    show(app, {"cells": cells, "found": found}, tables)


def _days(app: App, from_: str, to: str | None) -> list[int]:
    start, end = app.past(from_, "--from"), app.moment("today" if to is None else to, "--to")
    if start % DAY_MS or end % DAY_MS or not 0 < end - start <= MAX_DAYS * DAY_MS:
        raise UsageError(
            f"invalid range {show_time(start)} to {show_time(end)}: expected 1 to {MAX_DAYS} whole days, such as "
            "--from 2026-01-30 --to 2026-01-31 for one day"
        )
    return list(range(start, end, DAY_MS))


def _report(found: Checked, tolerance_ppm: int) -> list[str | Table]:
    differ = counted(found.differing, "differs", "differ")
    text = f"organisation-days: {found.compared:,} compared, {differ} by more than "
    lines: list[str | Table] = [text + f"{show_percent(tolerance_ppm)}, {found.unknown:,} unknown"]
    lines += [f"{day}: not compared, because the day has not ended" for day in found.waiting]
    read = [line for line in found.cells if line.verdict != "unread"][:SHOWN]
    if read:
        lines.append(table("Whole days, in seconds", _columns("cell"), [_row(line, line.cell_id) for line in read]))
    if found.lines:
        rows = [(*_row(line, line.cell_id, line.org_id), line.verdict) for line in found.lines[:SHOWN]]
        lines.append(table("Differing and unknown days, in seconds", (*_columns("cell", "org"), ""), rows))
        lines += [f"{_whose(line)}: {line.note}" for line in found.lines[:SHOWN] if line.note]
    left = found.more + len(found.lines[SHOWN:])
    return (
        [*lines, f"{left:,} more. To see more, pass --json. The table parity_checks has all lines"] if left else lines
    )


def _columns(*names: str) -> tuple[str, ...]:
    return ("day", *names, "#ours", "#theirs", "#withdrawn", "#apart", "#ppm")


def _row(line: Line, *names: str) -> tuple[object, ...]:
    shown = (name or "all" for name in names)
    return (day_text(line.day_ms), *shown, line.ours, line.theirs, line.withdrawn, line.off, line.ppm)


def _whose(line: Line) -> str:
    return ", ".join(name for name in (day_text(line.day_ms), line.cell_id, line.org_id) if name)
