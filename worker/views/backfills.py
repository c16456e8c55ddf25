"""Backfills: which there are, and what became of them. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class BackfillRow:
    """One backfill of events used in [from_ms, to_ms). `events`: what it holds; once it is closed, what went in by
    it, of which `withdrawn` were taken back. `diff_hash`: of what was shown before it was closed."""

    backfill: str
    org_id: str
    from_ms: int
    to_ms: int
    state: str
    at_ms: int
    closed_ms: int | None
    reverted_ms: int | None
    diff_hash: str | None
    actor: str
    reason: str
    events: int
    withdrawn: int


def list_backfills(connection: sa.Connection, *, org_id: str = "", most: int = 100) -> list[BackfillRow]:
    """The latest first; of one organisation where it is given. Errors: UnknownId."""
    if org_id:
        ids.require(connection, ids.ORG, org_id)
    return _rows(connection, org_id, "", most)


def show_backfill(connection: sa.Connection, backfill: str) -> BackfillRow:
    """One of them. Errors: UnknownId."""
    found = _rows(connection, "", backfill, 1)
    if not found:
        ids.require(connection, ids.BACKFILL, backfill)
        raise Refused(f"the backfill {backfill} appeared this moment: try again")
    return found[0]


def _rows(connection: sa.Connection, org_id: str, backfill: str, most: int) -> list[BackfillRow]:
    values = {"org_id": org_id, "backfill": backfill, "at_most": most}
    return [BackfillRow(**row) for row in SQL.run(connection, "list", values).mappings()]
