"""Seal: write what is owed as immutable pushes and advance the watermark, in one transaction.

Guarantee: owed = samples in force - sealed and not voided, for each (organisation, window, feature), computed from what
is committed. One function serves fresh, late, replayed, swept and newly mapped usage, with different ranges; so a
crash, a second worker or a replay can only find that nothing is owed any more.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema import plans
from drawdown.schema.tables import buckets, seals
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS, window_of
from drawdown.worker.seal import queries as sql
from drawdown.worker.seal.newcomers import register_unknown_orgs
from drawdown.worker.seal.statements import (
    Sealed,
    SealRequest,
    Statements,
    know_tables,
    lock_shard,
    make_work_table,
    narrow_if_needed,
)

SWEEP_CHUNK_MS = DAY_MS


def seal(connection: sa.Connection, request: SealRequest) -> Sealed:
    """Seal everything of the shard up to the horizon, late and fresh in the same transaction.

    Rests on rules S1 (one lock, first), S2 (arrivals and cursor from one later statement), S3, S4, S6 and S10.
    Errors: whatever the database refuses, for the caller to find the organisation it is about (S8).
    """
    lock, restored = lock_shard(connection, request)
    run = Statements(connection, request, lock.pack_ms, lock.seen)
    some_stopped = narrow_if_needed(run, connection, request)
    make_work_table(connection)
    for statement in sql.SCAN[connection.dialect.name]:
        if request.only is None or "UPDATE buckets" not in statement or connection.dialect.name == "postgresql":
            run.run(statement)
    new_orgs = register_unknown_orgs(run, connection, request, lock)
    if some_stopped or run.run(sql.ANY_BELOW_FLOOR).first():
        run.run(sql.BELOW_FLOOR)
    run.run(sql.LATE_IS_DIRTY)
    if run.texts["scope"]:
        run.run(sql.STOPPED_IS_DIRTY)
    if run.run(sql.ANY_LAGGARD).first():
        run.run(sql.LAGGARDS_ARE_DIRTY)
    run.run(sql.DROP_PARTIAL)
    run.run(sql.SCAN_DIRTY)
    run.run(sql.WITHDRAWN)
    run.run(sql.WITHDRAWN_DIRTY)
    know_tables(run)
    reached = request.horizon_ms if request.only is None else 0
    sealed = _write(run, connection, request, lock.epoch, reached_ms=reached)
    for statement in sql.FORGET_PENDING:
        run.run(statement)
    run.run(sql.PENDING)
    run.run(sql.FORGET_DIRTY)
    if request.only is None:
        run.run(sql.ADVANCE)
        run.run(sql.CAUGHT_UP)
    return Sealed(sealed.seal_id, sealed.pushes, new_orgs, restored)


def seal_range(
    connection: sa.Connection, request: SealRequest, from_ms: int, to_ms: int, *, biller: str | None = None
) -> Sealed:
    """Seal again what a past range [from_ms, to_ms) still owes; watermark, cursor and dirty windows stay as they are.

    Used by replay and by the nightly sweep. Windows at or above an organisation's watermark, or below its floor,
    are left alone; with `biller`, also those assigned to another provider.
    """
    lock, _ = lock_shard(connection, request)
    run = Statements(connection, request, from_ms)
    run.values.update(horizon=min(to_ms, request.horizon_ms))
    run.texts["below_watermark"] = sql.BELOW_WATERMARK
    if biller is not None:
        run.values["biller"] = biller
        run.texts["below_watermark"] += " AND a.provider = :biller"
    narrow_if_needed(run, connection, request)
    run.texts["dirty_scope"] += " AND 1 = 0"  # the work table holds the range's samples alone
    make_work_table(connection)
    where = "s.ts >= :pack AND s.ts < :horizon"
    run.run(sql.AGGREGATE.replace("{where}", where))
    run.run(sql.WITHDRAWN)
    know_tables(run)
    return _write(run, connection, request, lock.epoch, reached_ms=0)


def sweep(connection: sa.Connection, request: SealRequest) -> Sealed | None:
    """One day of the nightly sweep of the late horizon (S2's net); None when it is done for today."""
    row = connection.execute(
        sa.text(
            "SELECT MIN(sweep_next_ms), MIN(sweep_began_ms), MIN(watermark_ms) FROM buckets "
            "WHERE id BETWEEN :lo AND :hi"
        ),
        {"lo": request.shard.lo, "hi": request.shard.hi},
    ).one()
    start, began, watermark = (int(value) for value in row)
    if start >= min(watermark, window_of(began)):  # what was sealed since this round began is the next round's
        if request.now_ms - began < DAY_MS:
            return None
        start, began = 0, request.now_ms
    start = max(start, min(watermark, request.horizon_ms) - LATE_HORIZON_MS)
    end = min(start + SWEEP_CHUNK_MS, watermark, window_of(began))
    sealed = seal_range(connection, request, start, end) if end > start else None
    connection.execute(
        buckets.update()
        .where(buckets.c.id.between(request.shard.lo, request.shard.hi))
        .values(sweep_next_ms=end, sweep_began_ms=began)
    )
    return sealed


def _write(run: Statements, connection: sa.Connection, request: SealRequest, epoch: int, *, reached_ms: int) -> Sealed:
    cursor = connection.execute(
        sa.text("SELECT MIN(cursor) FROM buckets WHERE id BETWEEN :lo AND :hi"),
        {"lo": request.shard.lo, "hi": request.shard.hi},
    ).scalar_one()
    seal_id = connection.execute(
        seals.insert().values(
            at_ms=request.now_ms,
            bucket_lo=request.shard.lo,
            bucket_hi=request.shard.hi,
            horizon_ms=reached_ms,
            cursor=cursor,
            epoch=epoch,
        )
    ).inserted_primary_key
    assert seal_id is not None
    number = int(seal_id[0])
    sorting = plans.GROUP_BY_SORTING[connection.dialect.name]
    for statement in sorting[:1]:
        run.run(statement)
    written = run.run(sql.SEAL, seal_id=number).rowcount
    for statement in sorting[1:]:
        run.run(statement)
    if run.texts["sent"] != sql.SENT_WHOLE and written:
        run.run(sql.CARRY, seal_id=number)
    return Sealed(number, written)
