"""Stopping one organisation, and releasing it again.

Guarantee: a stopped organisation is neither sealed nor pushed, its watermark stays where it was, and nothing of it is
lost. Once released, it catches up.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.audit import By, record, require_org
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_org
from drawdown.schema.sql import queries
from drawdown.schema.text import typed

SQL = queries(__file__)


def stop_org(connection: sa.Connection, *, org_id: str, reason: str, now_ms: int, actor: str) -> bool:
    """Stop an organisation's seals and pushes; false where it is stopped already.

    Under its bucket's lock: a seal that is under way ends first, so that the watermark is held where it then is.
    """
    lock_org(connection, org_id)
    changed = SQL.run(connection, "stop_org", {"now_ms": now_ms, "reason": reason, "org_id": org_id}).rowcount
    if changed:
        record(connection, "org_stop", org_id, {}, By(now_ms, actor, reason))
    return bool(changed)


def release_org(
    connection: sa.Connection, *, org_id: str, reason: str, now_ms: int, actor: str, via: str = "program"
) -> str:
    """Let a stopped organisation go on; returns why it had been stopped.

    Under its bucket's lock: a seal that began without its samples would else end with its pushes, and give them back.
    Errors: Refused where it is unknown or not stopped.
    """
    lock_org(connection, org_id)
    org = require_org(connection, org_id)
    if org.stopped_at_ms is None:
        if org.operator_halt:
            lift = f"Run `drawdown org halt {typed(org_id, '--undo')}` to resume it"
            raise Refused(f"cannot release {org_id}: it is not stopped, but halted by an operator. {lift}")
        raise Refused(f"cannot release {org_id}: it is not stopped. `drawdown status {typed(org_id)}` shows its state")
    SQL.run(connection, "release_org", {"org_id": org_id})
    was = str(org.stopped_reason)
    record(connection, "org_release", org_id, {"was": was}, By(now_ms, actor, reason, via))
    return was
