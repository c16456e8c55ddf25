"""What every operator's command shares. Guarantee: whatever a person changes is on record with actor and reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from drawdown.schema.database import insert_rows
from drawdown.schema.errors import Refused
from drawdown.schema.tables import orgs


def record(
    connection: sa.Connection,
    action: str,
    target: str,
    details: Mapping[str, object],
    *,
    now_ms: int,
    actor: str,
    reason: str,
) -> None:
    """Append to `operator_actions`."""
    record_many(connection, action, [(target, details)], now_ms=now_ms, actor=actor, reason=reason)


def record_many(
    connection: sa.Connection,
    action: str,
    done: Sequence[tuple[str, Mapping[str, object]]],
    *,
    now_ms: int,
    actor: str,
    reason: str,
) -> None:
    """The same done to many targets: a row for each, in one statement."""
    insert_rows(
        connection,
        "operator_actions",
        {"target": "text", "details": "text"},
        [{"target": target, "details": json.dumps(details, sort_keys=True)} for target, details in done],
        same={"at_ms": now_ms, "action": action, "actor": actor, "reason": reason},
    )


def require_org(connection: sa.Connection, org_id: str) -> sa.Row[Any]:
    """The organisation's row.

    Errors: Refused where there is none.
    """
    row = connection.execute(sa.select(orgs).where(orgs.c.org_id == org_id)).one_or_none()
    if row is None:
        raise Refused(f"there is no organisation {org_id}; `drawdown org list` shows those there are")
    return row


def lock_buckets(connection: sa.Connection, lo: int = 0, hi: int = 255) -> None:
    """Rule S1's lock, for whatever changes what a seal reads. Must be the transaction's first statement."""
    suffix = " FOR UPDATE" if connection.dialect.name == "postgresql" else ""
    connection.execute(
        sa.text(f"SELECT id FROM buckets WHERE id BETWEEN :lo AND :hi ORDER BY id{suffix}"), {"lo": lo, "hi": hi}
    ).all()
