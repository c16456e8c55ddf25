"""Organisations first seen in samples.

Guarantee: each gets a row and a bucket before its usage is sealed or becomes pending. None is lost by a join (S6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.locks import make_windows_dirty
from drawdown.schema.migrate import bucket_of
from drawdown.schema.sql import queries
from drawdown.worker.catalog.owners import Claim, other_owners
from drawdown.worker.catalog.wallets import one_wallet_at
from drawdown.worker.seal.statements import Lock, SealRequest, Statements, lock_shard

SQL = queries(__file__)

AT_ONCE: Final = 20_000
"""Organisations that one statement gives their rows."""


def register_unknown_orgs(run: Statements, request: SealRequest, lock: Lock) -> int:
    """Give a row and a bucket to organisations first seen in samples; assign them where that is asked for (S6)."""
    found = [str(org) for org in run.run("strangers").scalars()]
    if run.run("any_laggard").first():
        found += [str(org) for org in run.run("strangers_behind", "scope").scalars()]
    _give_buckets(run.connection, request, found)
    return _assign_new(run.connection, request, lock) if request.new_orgs is not None else 0


def register_unknown_orgs_by_arrival(connection: sa.Connection, request: SealRequest) -> None:
    """The same without a scan, for when the shard's samples cannot be added up: one of them is at fault (S8)."""
    lock, _ = lock_shard(connection, request)
    found = SQL.run(connection, "strangers_by_arrival", lock.seen.values, later=lock.seen.piece).scalars()
    _give_buckets(connection, request, [str(org) for org in found])


def _give_buckets(connection: sa.Connection, request: SealRequest, strangers: Sequence[str]) -> None:
    placed = ((org, bucket_of(org)) for org in dict.fromkeys(strangers))
    shard = request.shard
    mine = [{"org_id": org, "bucket": bucket} for org, bucket in placed if shard.lo <= bucket <= shard.hi]
    for at in range(0, len(mine), AT_ONCE):
        SQL.run(connection, "give_bucket", {"strangers": mine[at : at + AT_ONCE]})


def _assign_new(connection: sa.Connection, request: SealRequest, lock: Lock) -> int:
    new, shard = request.new_orgs, request.shard
    assert new is not None
    # The watermark is the first moment nothing was sealed for; before the very first tick that would be all history.
    start = new.start_ms if new.start_ms is not None else (lock.watermark_ms or request.horizon_ms)
    unassigned = [str(org) for org in SQL.run(connection, "unassigned", {"lo": shard.lo, "hi": shard.hi}).scalars()]
    # Where customers have ids of the provider's own, usage waits until one is given.
    own_ids = new.provider in request.providers and request.providers[new.provider].own_customer_ids
    claims = [] if own_ids else [Claim(org, org, start) for org in unassigned]
    taken = {claim.org_id for claim in other_owners(connection, claims, one_wallet_at(connection, new.provider))}
    said = {"actor": "drawdown", "reason": "--new-org-provider", "now_ms": request.now_ms}
    rows = [
        {"org_id": org, "start_ms": start, "provider": new.provider, "customer_id": "" if own_ids else org, **said}
        for org in unassigned
        if org not in taken
    ]
    if rows:
        SQL.run(connection, "assign", rows)
        SQL.run(connection, "bill_by", rows)
        assigned = [{"org_id": row["org_id"]} for row in rows]
        values = {"start_ms": start, "assigned": assigned}
        make_windows_dirty(connection, SQL, "pending_of_assigned", values, lo=shard.lo, hi=shard.hi)
    return len(rows)
