"""Set, remove and list cells and their URLs.

Guarantee: a cell is not removed while it runs sandboxes or has unacknowledged halts. The audit has each change, with
the value that it replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import (
    ID,
    KEY,
    Action,
    Column,
    Fact,
    Invocation,
    Label,
    Listing,
    Look,
    New,
    Page,
    Values,
    WrongField,
)
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value
from drawdown.worker.halts import lists
from drawdown.worker.halts.addresses import origin

SQL = queries(__file__)


def set_cell(connection: sa.Connection, cell_id: str, url: str, by: By, *, new: bool) -> str | None:
    """Set the URL of a cell, and return its previous URL.

    Errors: UsageError for an invalid id or URL; UnknownId for an unknown cell, unless `new`.
    """
    if not is_clean_id(cell_id):
        raise UsageError(
            f"invalid cell id {quote_value(cell_id)}: expected 1 to 200 characters without control characters"
        )
    if origin(url) is None:
        raise UsageError("invalid URL: expected a plain http(s) URL such as https://cell-1.internal:8443")
    ids.require(connection, ids.CELL, cell_id, new=new)
    was = _url_of(connection, cell_id)
    SQL.run(connection, "set_cell", {"cell_id": cell_id, "url": url})
    details = {"url": url, "was": was}
    record(connection, "cell_set", cell_id, details, by)
    return was


def remove_cell(connection: sa.Connection, cell_id: str, by: By) -> str:
    """Remove the URL of a cell, and return that URL.

    Errors: UnknownId for an unknown cell; Refused if the cell does not have a URL, or has sandboxes or unacknowledged
    halts, which still need the URL.
    """
    ids.require(connection, ids.CELL, cell_id)
    was = _url_of(connection, cell_id)
    if was is None:
        raise Refused(
            f"cannot remove the URL of cell {cell_id}: the cell does not have a URL. Run `drawdown cell list`"
        )
    needed = SQL.run(connection, "needed", {"cell_id": cell_id}).one()
    if needed.sandboxes or needed.halts:
        raise Refused(
            f"cannot remove cell {cell_id}: {counted(needed.sandboxes, 'sandbox still runs', 'sandboxes still run')} "
            f"there, and {counted(needed.halts, 'halt is', 'halts are')} not acknowledged. Run `drawdown cell list`"
        )
    SQL.run(connection, "delete_cell", {"cell_id": cell_id})
    details = {"was": was}
    record(connection, "cell_remove", cell_id, details, by)
    return was


def _url_of(connection: sa.Connection, cell_id: str) -> str | None:
    url = SQL.run(connection, "url", {"cell_id": cell_id}).scalar()
    return None if url is None else str(url)


# Actions for the CLI, the HTTP API and the console. `cell set` and `list` also show if this machine allows the URL.

CellId = Annotated[str, ID, "Cell's id"]


@dataclass(frozen=True)
class CellSet:
    """The URL of a cell, and its previous URL (null: it did not have a URL)."""

    cell_id: str
    url: str
    was: str | None


def _set(
    connection: sa.Connection,
    asked: Invocation,
    cell: CellId,
    url: Annotated[str, KEY, "URL of the cell; Drawdown adds /admin/halt-org", Label("URL")],
    *,
    new: New = False,
) -> CellSet:
    try:
        return CellSet(cell, url, set_cell(connection, cell, url, asked.by, new=new))
    except UsageError as error:
        if "URL" in str(error):
            raise WrongField("url", str(error)) from None
        raise


@dataclass(frozen=True)
class CellRemoved:
    """A removed cell, and its previous URL."""

    cell_id: str
    was: str


def _remove(connection: sa.Connection, asked: Invocation, cell: CellId) -> CellRemoved:
    return CellRemoved(cell, remove_cell(connection, cell, asked.by))


def _facts(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    return [Fact(values["cell"], _url_of(connection, values["cell"]) or "no URL")]


def _list(connection: sa.Connection, _look: Look) -> Page[lists.Cell]:
    return Page(lists.list_cells(connection))


SCOPE: Final = "orgs:write"
SET: Final = Action(
    "cell set",
    "Set the URL of a cell",
    "Set the URL that receives a cell's halts. Each machine's DRAWDOWN_CELL_ORIGINS must allow its origin.",
    _set,
    lambda done: f"{done.cell_id}: {done.url}. Drawdown calls it only if each machine's settings allow its origin",
    path="/v1/cells/{cell}",
    scope=SCOPE,
    role="admin",
    facts=_facts,
    place="/console/cells",
    by_hand=True,
)
REMOVE: Final = Action(
    "cell remove",
    "Remove a cell",
    "Remove a cell. Drawdown rejects the command while sandboxes or halts need the cell.",
    _remove,
    lambda done: f"{done.cell_id}: removed; before: {done.was}",
    path="/v1/cells/{cell}/remove",
    scope=SCOPE,
    role="admin",
    facts=_facts,
    place="/console/cells",
)
ACTIONS: Final = (SET, REMOVE)
LISTS: Final = (
    Listing(
        "cell list",
        "Cells",
        "List cells.",
        _list,
        (Column("cell_id", "cell"), "url", Column("running", "#running"), Column("halts_due", "#halts due")),
        "cells",
        path="/v1/cells",
        scope="orgs:read",
        by_hand=True,
    ),
)
