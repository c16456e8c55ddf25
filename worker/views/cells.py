"""Cells as people look at them. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

_LIST: Final = """
SELECT c.cell_id, c.url,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.cell_id = c.cell_id AND s.state = 'running') AS running,
    (SELECT COUNT(*) FROM halts h WHERE h.cell_id = c.cell_id AND h.due_at_ms IS NOT NULL) AS halts_due
FROM cells c ORDER BY c.cell_id
"""


@dataclass(frozen=True)
class Cell:
    """A cell: where it listens, how many sandboxes run there, how many halts it has not acknowledged."""

    cell_id: str
    url: str
    running: int
    halts_due: int


def list_cells(connection: sa.Connection) -> list[Cell]:
    """All cells, by their ids."""
    return [Cell(**row._mapping) for row in connection.execute(sa.text(_LIST))]


def cells_without_url(connection: sa.Connection) -> list[str]:
    """Cells that run sandboxes, and that nobody registered."""
    query = (
        "SELECT DISTINCT cell_id FROM sandboxes WHERE state <> 'stopped' AND cell_id NOT IN "
        "(SELECT cell_id FROM cells) ORDER BY 1"
    )
    return list(connection.execute(sa.text(query)).scalars())
