"""Stop an organisation's billing, and resume it.

Guarantee: a stopped organisation is neither sealed nor pushed. Its watermark and samples are kept. After the
resume, Drawdown bills all usage since the watermark.
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
    """Stop an organisation's seals and pushes; return True if this stopped it.

    False: the organisation was already stopped, or does not exist.

    This takes the lock of the organisation's bucket, so that a seal under way ends first, and its watermark is stored.
    """
    lock_org(connection, org_id)
    changed = SQL.run(connection, "stop_org", {"now_ms": now_ms, "reason": reason, "org_id": org_id}).rowcount
    if changed:
        record(connection, "org_stop", org_id, {}, By(now_ms, actor, reason))
    return bool(changed)


def resume_org(
    connection: sa.Connection, *, org_id: str, reason: str, now_ms: int, actor: str, via: str = "program"
) -> str:
    """Resume a stopped organisation, and return the reason of its stop.

    This takes the lock of the organisation's bucket. Otherwise a seal that began without its samples could read its
    pushes, and give them back.

    Errors: UnknownId if the organisation does not exist; Refused if it is not stopped.
    """
    lock_org(connection, org_id)
    org = require_org(connection, org_id)
    if org.stopped_at_ms is None:
        if org.operator_halt:
            lift = f"Run `drawdown org halt {typed(org_id, '--undo')}` to resume it"
            raise Refused(f"cannot resume {org_id}: it is not stopped, but halted by an operator. {lift}")
        raise Refused(f"cannot resume {org_id}: it is not stopped. See `drawdown status {typed(org_id)}`")
    SQL.run(connection, "resume_org", {"org_id": org_id})
    was = str(org.stopped_reason)
    record(connection, "org_resume", org_id, {"was": was}, By(now_ms, actor, reason, via))
    return was
