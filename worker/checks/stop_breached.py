"""Stops organisations that have a breach, unless somebody mended and released them since it was looked for."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.worker.seal.stops import stop_org
from drawdown.worker.verify.verify import Breach, Verification

SQL = queries(__file__)


def stop_breached(connection: sa.Connection, verification: Verification, now_ms: int, actor: str) -> list[str]:
    """Stop each organisation with a breach, and no other; returns those that were not stopped before. One that was
    released after the proof began is left: what the proof saw of it may be mended, and the next one tells.

    Must be the transaction's first statement: a seal that is under way ends before its organisations are stopped, so
    that their watermark is held where it then is.
    """
    lock_buckets(connection)
    released = set(SQL.run(connection, "released_since", {"action": verification.before.action}).scalars())
    return [
        org_id
        for org_id, breach in sorted(verification.first.items())
        if org_id not in released
        and stop_org(connection, org_id=org_id, reason=_reason(breach), now_ms=now_ms, actor=actor)
    ]


def _reason(breach: Breach) -> str:
    where = "".join(f", {name} {value}" for name, value in _where(breach) if value is not None)
    return f"verify: invariant {breach.invariant}{where}: {breach.text}"


def _where(breach: Breach) -> tuple[tuple[str, object], ...]:
    return (("window", breach.window_ms), ("feature", breach.feature))
