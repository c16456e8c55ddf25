"""Organisations first seen in samples.

Guarantee: each gets a row and a bucket before its usage is sealed or becomes pending; none is lost by a join (S6).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.locks import make_dirty
from drawdown.schema.migrate import bucket_of
from drawdown.schema.sql import rows_sql
from drawdown.schema.tables import assignments, orgs
from drawdown.worker.catalog.wallets import one_wallet_at
from drawdown.worker.seal import queries as sql
from drawdown.worker.seal.statements import Lock, SealRequest, Statements, lock_shard

STRANGERS: Final = """
SELECT DISTINCT w.org_id FROM seal_work w LEFT JOIN orgs o ON o.org_id = w.org_id WHERE o.bucket IS NULL
"""


# A bucket behind the pack: its cursor may have passed a stranger's sample while the sample's window was still open, and
# an organisation without a row is no laggard that could be found below.
STRANGERS_BEHIND: Final = """
SELECT DISTINCT s.org_id FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE s.ts >= (SELECT MIN(watermark_ms) FROM buckets WHERE id BETWEEN :lo AND :hi) AND s.ts < :upto
    AND s.problem IS NULL AND o.bucket IS NULL {scope}
"""


STRANGERS_BY_ARRIVAL: Final = """
SELECT DISTINCT s.org_id FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE {later} AND s.problem IS NULL AND o.bucket IS NULL
"""


def register_unknown_orgs(run: Statements, connection: sa.Connection, request: SealRequest, lock: Lock) -> int:
    """Give a row and a bucket to organisations first seen in samples; assign them where that is asked for (S6)."""
    found = [str(row[0]) for row in run.run(STRANGERS)]
    if run.run(sql.ANY_LAGGARD).first():
        found += [str(row[0]) for row in run.run(STRANGERS_BEHIND)]
    _give_buckets(connection, request, found)
    return _assign_new(connection, request, lock) if request.new_orgs is not None else 0


def register_unknown_orgs_by_arrival(connection: sa.Connection, request: SealRequest) -> None:
    """The same without a scan, for when the shard's samples cannot be added up: one of them is at fault (S8)."""
    lock, _ = lock_shard(connection, request)
    text = STRANGERS_BY_ARRIVAL.replace("{later}", lock.seen.later)
    found = connection.execute(sa.text(text), {"cursor": lock.seen.cursor})
    _give_buckets(connection, request, [str(row[0]) for row in found])


def _give_buckets(connection: sa.Connection, request: SealRequest, strangers: Sequence[str]) -> None:
    mine = [
        {"org": org, "bucket": bucket_of(org)}
        for org in strangers
        if request.shard.lo <= bucket_of(org) <= request.shard.hi
    ]
    if mine:
        connection.execute(
            sa.text(
                "INSERT INTO orgs (org_id, bucket, registered) VALUES (:org, :bucket, false) "
                "ON CONFLICT (org_id) DO UPDATE SET bucket = excluded.bucket"
            ),
            mine,
        )


def _assign_new(connection: sa.Connection, request: SealRequest, lock: Lock) -> int:
    new = request.new_orgs
    assert new is not None
    # The watermark is the first moment nothing was sealed for; before the very first tick that would be all history.
    start = new.start_ms if new.start_ms is not None else (lock.pack_ms or request.horizon_ms)
    theirs = one_wallet_at(connection, new.provider)
    unassigned = connection.execute(
        sa.text(
            "SELECT org_id FROM orgs o WHERE bucket BETWEEN :lo AND :hi AND NOT EXISTS "
            "(SELECT 1 FROM assignments a WHERE a.org_id = o.org_id) AND NOT EXISTS (SELECT 1 FROM assignments c WHERE "
            "c.provider IN :theirs AND c.customer_id = o.org_id AND (c.end_ms IS NULL OR c.end_ms > :start))"
        ).bindparams(sa.bindparam("theirs", expanding=True)),
        {"lo": request.shard.lo, "hi": request.shard.hi, "theirs": theirs, "start": start},
    ).scalars()
    # Where customers have ids of the provider's own, usage waits until one is given.
    own_ids = new.provider in request.providers and request.providers[new.provider].own_customer_ids
    said = {"actor": "drawdown", "reason": "--new-org-provider", "at_ms": request.now_ms}
    rows = [
        {"org_id": org, "start_ms": start, "provider": new.provider, "customer_id": "" if own_ids else org, **said}
        for org in unassigned
    ]
    if rows:
        connection.execute(assignments.insert(), rows)
        names = [row["org_id"] for row in rows]
        connection.execute(
            orgs.update()
            .where(orgs.c.org_id == sa.bindparam("name"))
            .values(
                registered=True,
                billing_provider=new.provider,
                projection_due_ms=request.now_ms,
                projection_asks=orgs.c.projection_asks + 1,
            ),
            [{"name": name} for name in names],
        )
        shape = rows_sql(connection, {"org_id": "text"})
        make_dirty(
            connection,
            f"pending_usage WHERE window_ms >= :start AND org_id IN (SELECT org_id FROM ({shape}) r)",
            {"start": start, "rows": json.dumps([{"org_id": name} for name in names])},
            lo=request.shard.lo,
            hi=request.shard.hi,
        )
    return len(rows)


# A sample of an organisation nobody has named yet, or that another program inserted without a bucket.
