"""An organisation as a person knows it: registered, halted, overridden, to be asked about again.

Guarantee: what an operator says wins over any provider's verdict at once, whether or not one can be asked, and is on
record with who and why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import rows_sql
from drawdown.schema.errors import UsageError
from drawdown.schema.migrate import bucket_of
from drawdown.schema.tables import orgs
from drawdown.schema.units import MAX_ID_CHARS
from drawdown.worker.actions import record, require_org
from drawdown.worker.sample_values import is_clean_id
from drawdown.worker.shard import Shard
from drawdown.worker.standing import told_to, write

APPLIED_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Said:
    """When, by whom and why."""

    now_ms: int
    actor: str
    reason: str


def register(connection: sa.Connection, org_id: str) -> None:
    """Make the organisation known.

    Errors: UsageError for an id that no sample could carry.
    """
    if not is_clean_id(org_id):
        raise UsageError(f"an organisation's id has 1 to {MAX_ID_CHARS} characters, none of them control characters")
    connection.execute(
        sa.text(
            "INSERT INTO orgs (org_id, bucket, registered) VALUES (:org, :bucket, true) "
            "ON CONFLICT (org_id) DO UPDATE SET registered = true, bucket = COALESCE(orgs.bucket, excluded.bucket)"
        ),
        {"org": org_id, "bucket": bucket_of(org_id)},
    )
    connection.execute(
        sa.text("UPDATE pending_usage SET reason = 'no_assignment' WHERE org_id = :org AND reason = 'unknown_org'"),
        {"org": org_id},
    )


def halt(connection: sa.Connection, org_id: str, said: Said, *, lift: bool = False) -> bool:
    """Halt an organisation at once, or lift the operator's halt (then the provider's verdict counts again).

    Returns whether it is halted now. Errors: Refused for an unknown organisation.
    """
    require_org(connection, org_id)
    action = "org_halt_lift" if lift else "org_halt"
    record(connection, action, org_id, {}, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    connection.execute(orgs.update().where(orgs.c.org_id == org_id).values(operator_halt=not lift))
    mark_for_projection(connection, [org_id], said.now_ms)
    apply_now(connection, [org_id], said.now_ms)
    return bool(require_org(connection, org_id).is_halted)


def override(
    connection: sa.Connection,
    org_id: str,
    said: Said,
    *,
    max_concurrent: int | None,
    halted: bool | None,
    until_ms: int | None,
) -> None:
    """Let the operator's word win over the provider's, until a time or until cleared (all None).

    Errors: Refused for an unknown organisation, UsageError for a limit below zero or an expiry in the past.
    """
    if max_concurrent is not None and max_concurrent < 0:
        raise UsageError("--max-concurrent is zero or more")
    if until_ms is not None and until_ms <= said.now_ms:
        raise UsageError("--until lies in the past")
    require_org(connection, org_id)
    connection.execute(
        orgs.update()
        .where(orgs.c.org_id == org_id)
        .values(
            override_max_concurrent=max_concurrent,
            override_halted=halted,
            override_until_ms=until_ms,
        )
    )
    mark_for_projection(connection, [org_id], said.now_ms)
    apply_now(connection, [org_id], said.now_ms)
    details = {"max_concurrent": max_concurrent, "halted": halted, "until_ms": until_ms}
    record(connection, "org_override", org_id, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)


OVERRIDES_ENDED: Final = """
UPDATE orgs SET projection_due_ms = :now, projection_asks = projection_asks + 1,
    override_halted = NULL, override_max_concurrent = NULL, override_until_ms = NULL
WHERE override_until_ms <= :now AND bucket BETWEEN :lo AND :hi RETURNING org_id
"""


def end_overrides(connection: sa.Connection, shard: Shard, now_ms: int) -> None:
    """Forget the overrides that have run out: that changes verdicts without anything else happening."""
    values = {"now": now_ms, "lo": shard.lo, "hi": shard.hi}
    apply_now(connection, connection.execute(sa.text(OVERRIDES_ENDED), values).scalars().all(), now_ms)


HALTED_AND_EXEMPT: Final = """
SELECT org_id FROM orgs WHERE is_halted AND NOT operator_halt AND (override_halted IS NULL OR NOT override_halted)
    AND billing_provider IN ('legacy', 'none') AND bucket BETWEEN :lo AND :hi
"""


def release_exempt(connection: sa.Connection, shard: Shard, now_ms: int) -> None:
    """Whoever was halted for lack of credit, and is billed by nobody now, goes on: nobody would be asked ever again."""
    found = connection.execute(sa.text(HALTED_AND_EXEMPT), {"lo": shard.lo, "hi": shard.hi})
    apply_now(connection, found.scalars().all(), now_ms)


def apply_now(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Write what holds by what is known, without waiting for a provider that perhaps nobody can ask."""
    ordered = sorted(set(org_ids))
    for start in range(0, len(ordered), APPLIED_AT_ONCE):
        some = ordered[start : start + APPLIED_AT_ONCE]
        rows = connection.execute(
            sa.select(orgs).where(orgs.c.org_id.in_(some)).order_by(orgs.c.org_id).with_for_update()
        ).all()
        write(connection, [told_to(org, now_ms) for org in rows])


def mark_for_projection(connection: sa.Connection, org_ids: Sequence[str], now_ms: int) -> None:
    """Have the provider asked again about these organisations. The count of asks grows each time, so that a
    projection answers only those asks that came before its read."""
    shape = rows_sql(connection, {"org_id": "text"})
    connection.execute(
        sa.text(
            "UPDATE orgs SET projection_due_ms = :now, projection_asks = projection_asks + 1 "
            f"WHERE org_id IN (SELECT org_id FROM ({shape}) r)"
        ),
        {"now": now_ms, "rows": json.dumps([{"org_id": org} for org in sorted(set(org_ids))])},
    )
