"""`drawdown nightly`: run the checks of each night, one after the other.

Guarantee: all checks run, whatever their results. The exit status is the worst of all checks, in the order
1, 2, 75, 0. You can run each check alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Final

import typer

from drawdown.cli.app import App
from drawdown.cli.rendering import show
from drawdown.cli.startup import meaning_of
from drawdown.cli.streams import fail
from drawdown.cli.tree import built
from drawdown.schema.errors import MEANINGS, Exit, worst

LINES: Final = (
    "reconcile --correct --reason nightly",
    "verify --since-last",
    "guard reconcile --reason nightly",
    "ledger spenders --keep",
    "vendor drift --keep",
    "backfill overdue",
    "status",
)
"""The nightly commands. The command of an unused feature succeeds at once."""
WITH_CELLS: Final = "parity check --cells"


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("nightly")(nightly_)


def nightly_(context: typer.Context) -> None:
    """Run all checks that are due once a night.

    The command compares accepted pushes with the providers' charges, corrects lost pushes and double charges, and
    proves the invariants. It then corrects the guard's counters, and records high spenders and drift from vendors'
    bills. It lists overdue backfills, open work, and usage without a provider. If DRAWDOWN_CELL_ORIGINS is set, it
    also compares samples with the counts of cells.

    Each check is a separate command. All checks run, even if a check fails. The exit status is the first of 1, 2, 75
    and 0 that a check returned.
    """
    app: App = context.obj
    ended = [(line, *_run(context, line)) for line in _report(app)]
    status = worst(status for _, status, _ in ended)
    told = [{"command": line, "exit_status": status, "said": said} for line, status, said in ended]
    last = [f"{MEANINGS[Exit(status)]}: drawdown {line} (exit status {status})" for line, status, _ in ended if status]
    show(app, {"nightly": told, "exit_status": status}, last or [f"all {len(ended)}: {MEANINGS[Exit.SETTLED]}"])
    raise typer.Exit(status)


def _report(app: App) -> Iterator[str]:
    yield from LINES
    if app.settings.cell_origins:
        yield WITH_CELLS


def _run(context: typer.Context, line: str) -> tuple[int, object]:
    """Run one command.

    Return its exit status and, for programs, the object that it printed.
    """
    app: App = context.obj
    if not app.json:
        app.out.print(f"drawdown {line}", highlight=False, style="bold")
        return _status(context, line), None
    with redirect_stdout(io.StringIO()) as said:
        status = _status(context, line)
    return status, json.loads(said.getvalue() or "null")


def _status(context: typer.Context, line: str) -> int:
    app: App = context.obj
    name, *arguments = line.split()
    command = built(name)
    try:
        with command.make_context(name, arguments, parent=context) as inner:
            command.invoke(inner)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except Exception as error:  # the other checks still run
        return fail(meaning_of(error), as_json=app.json)
    return Exit.SETTLED
