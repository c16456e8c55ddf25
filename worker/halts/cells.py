"""The list of cells and their URLs.

Guarantee: a cell that sandboxes or halts still need is not removed. Each change is on record with the value it
replaced.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.worker.halts.addresses import origin

SQL = queries(__file__)


def set_cell(connection: sa.Connection, cell_id: str, url: str, by: By, *, new: bool) -> str | None:
    """Say where a cell listens; returns where it did before.

    Errors: UsageError for an id or URL that is none; UnknownId, unless `new`, for a cell there is not.
    """
    if not is_clean_id(cell_id):
        raise UsageError("a cell's id has 1 to 200 characters, none of them control characters")
    if origin(url) is None:
        raise UsageError("that is no http(s) URL of the plain form, such as https://cell-1.internal:8443")
    ids.require(connection, ids.CELL, cell_id, new=new)
    was = _url_of(connection, cell_id)
    SQL.run(connection, "set_cell", {"cell_id": cell_id, "url": url})
    details = {"url": url, "was": was}
    record(connection, "cell_set", cell_id, details, by)
    return was


def remove_cell(connection: sa.Connection, cell_id: str, by: By) -> str:
    """Forget where a cell listens; returns it.

    Errors: UnknownId; Refused while it has sandboxes that are not stopped, or halts it has not acknowledged: those
    could not be told any more.
    """
    ids.require(connection, ids.CELL, cell_id)
    was = _url_of(connection, cell_id)
    if was is None:
        raise Refused(f"the cell {cell_id} has no URL that could be removed: hosts tell of it in `sandboxes`")
    needed = SQL.run(connection, "needed", {"cell_id": cell_id}).one()
    if needed.sandboxes or needed.halts:
        raise Refused(
            f"the cell {cell_id} is needed: {needed.sandboxes:,} sandboxes there are not stopped, and "
            f"{needed.halts:,} halts are not acknowledged; `drawdown cell list` shows both"
        )
    SQL.run(connection, "delete_cell", {"cell_id": cell_id})
    details = {"was": was}
    record(connection, "cell_remove", cell_id, details, by)
    return was


def _url_of(connection: sa.Connection, cell_id: str) -> str | None:
    url = SQL.run(connection, "url", {"cell_id": cell_id}).scalar()
    return None if url is None else str(url)
