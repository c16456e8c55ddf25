"""`drawdown cell`: manage the cells that receive halts.

Written by hand: the commands that show this machine's allow-list and a cell's secret.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, New, Reason
from drawdown.cli.rendering import show, table
from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.worker.halts import cells
from drawdown.worker.halts import lists as views_cells
from drawdown.worker.halts.addresses import origin

commands = of_noun("cell", *cells.ACTIONS, *cells.LISTS)

CellArgument = Annotated[str, typer.Argument(metavar="CELL", help="Cell's id")]


@commands.command("list")
def list_(context: typer.Context) -> None:
    """List cells."""
    app: App = context.obj
    allowed = app.settings.cells().allowed
    found = [{**asdict(cell), "allowed": origin(cell.url) in allowed} for cell in app.read(views_cells.list_cells)]
    columns = ("cell", "url", "#running", "#halts due", "on the allow-list")
    show(app, {"cells": found}, [table("Cells", columns, [tuple(cell.values()) for cell in found])])


@commands.command("set")
def set_(
    context: typer.Context,
    cell: CellArgument,
    url: Annotated[str, typer.Argument(help="URL of the cell; Drawdown adds /admin/halt-org")],
    new: New = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Set the URL that receives a cell's halts.

    Drawdown calls the URL only if DRAWDOWN_CELL_ORIGINS allows its origin.
    """
    app: App = context.obj
    by = app.by(actor, reason)
    was = app.write(lambda c: cells.set_cell(c, cell, url, by, new=new))
    settings = app.settings.cells()
    why = settings.why_not(url)
    note = "" if was is None else f"; before: {was}"
    note += "" if why is None else f"; Drawdown does not call the cell yet: {why}"
    result = {"cell_id": cell, "url": url, "was": was, "allowed": origin(url) in settings.allowed}
    show(app, result, [f"{cell}: {url}{note}"])


@commands.command()
def secret(context: typer.Context, cell: CellArgument, new: New = False) -> None:
    """Print a cell's own secret.

    Give the secret to the person who installs the cell. Drawdown signs only the halts of this cell with the secret.
    """
    app: App = context.obj
    if not is_clean_id(cell):
        raise UsageError(
            f"invalid cell id {quote_value(cell)}: expected 1 to 200 characters without control characters"
        )
    app.read(lambda c: ids.require(c, ids.CELL, cell, new=new))
    found = app.settings.cells().secrets_of(cell)
    if not found:
        raise UsageError(
            "missing DRAWDOWN_CELL_SECRET. Set it, because Drawdown derives each cell's own secret from it"
        )
    show(app, {"cell_id": cell, "secret": found[0]}, [found[0]])
