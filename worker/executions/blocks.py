"""What a person blocks: runs of a project, or that do an action."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries

SQL = queries(__file__)


def block(
    connection: sa.Connection,
    org_id: str,
    kind: Literal["project", "action"],
    name: str,
    by: By,
    *,
    undo: bool = False,
    new: bool = True,
) -> bool:
    """Let no run of an organisation's project, or none that does an action, be accepted any more; or again. Whether
    that changed anything. What runs goes on. Errors: UnknownId, unless `new` also for what no run ever had; UsageError.
    """
    ids.require(connection, ids.CUSTOMER, org_id)
    if not is_clean_id(name):
        raise UsageError(f"a {kind} has 1 to 200 characters, none of them control characters")
    ids.require(connection, ids.PROJECT if kind == "project" else ids.ACT, name, new=new)
    values = {"org_id": org_id, "kind": kind, "name": name, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    changed = SQL.run(connection, "unblock" if undo else "block", values).first() is not None
    if changed:
        record(connection, "run_unblock" if undo else "run_block", org_id, {"kind": kind, "name": name}, by)
    return changed
