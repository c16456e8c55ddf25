"""`drawdown cell`: the hosts' control points that are told to halt."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.options import Actor, Reason
from drawdown.cli.render import show, table
from drawdown.cli.state import State
from drawdown.schema.errors import UsageError
from drawdown.worker.actions import record
from drawdown.worker.cell_urls import origin

app = typer.Typer(help="Cells: who is told to halt an organisation.", no_args_is_help=True)

LIST = """
SELECT c.cell_id, c.url, (SELECT COUNT(*) FROM sandboxes s WHERE s.cell_id = c.cell_id AND s.state = 'running'),
    (SELECT COUNT(*) FROM halts h WHERE h.cell_id = c.cell_id AND h.due_at_ms IS NOT NULL)
FROM cells c ORDER BY c.cell_id
"""


@app.command("list")
def list_(context: typer.Context) -> None:
    """List cells."""
    state: State = context.obj
    allowed = state.settings.cells().allowed
    rows = state.read(lambda c: [tuple(row) for row in c.execute(sa.text(LIST))])
    found = [
        {"cell_id": cell, "url": url, "running": running, "halts_due": due, "allowed": origin(url) in allowed}
        for cell, url, running, due in rows
    ]
    columns = ("cell", "url", "#running", "#halts due", "on the allow-list")
    show(state, {"cells": found}, [table("Cells", columns, [tuple(one.values()) for one in found])])


@app.command("set")
def set_(
    context: typer.Context,
    cell: Annotated[str, typer.Argument(help="The cell's id")],
    url: Annotated[str, typer.Argument(help="Where it listens; /admin/halt-org is added")],
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Say where a cell listens. It is called only if DRAWDOWN_CELL_ORIGINS allows its origin."""
    state: State = context.obj
    if origin(url) is None:
        raise UsageError("that is no http(s) URL of the plain form, such as https://cell-1.internal:8443")
    said = state.said(actor, reason)

    def work(connection: sa.Connection) -> None:
        connection.execute(
            sa.text(
                "INSERT INTO cells (cell_id, url) VALUES (:cell, :url) ON CONFLICT (cell_id) DO UPDATE SET url = :url"
            ),
            {"cell": cell, "url": url},
        )
        record(connection, "cell_set", cell, {"url": url}, now_ms=said.now_ms, actor=said.actor, reason=said.reason)

    state.write(work)
    settings = state.settings.cells()
    allowed = origin(url) in settings.allowed
    why = settings.why_not(url)
    note = "" if why is None else f"; it will not be called yet: {why}"
    show(state, {"cell_id": cell, "url": url, "allowed": allowed}, [f"{cell}: {url}{note}"])
