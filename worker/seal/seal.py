"""Seal: writes the owed quantities as immutable pushes and advances the watermark, in one transaction.

Guarantee: owed = samples in force - pushes not voided, for each (organisation, window, feature), computed from
committed rows. One function serves fresh, late, replayed, swept and newly mapped usage, with different ranges. So a
crash, a second worker or a replay can only find that nothing is owed any more.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS, WINDOW_MS, window_of
from drawdown.worker.seal.newcomers import register_unknown_orgs
from drawdown.worker.seal.owed import advance, go_by, hold_what_is_open, write_owed, write_pending
from drawdown.worker.seal.statements import (
    Lock,
    Sealed,
    SealRequest,
    Statements,
    know_tables,
    lock_shard,
    narrow_if_needed,
)

SQL = queries(__file__)

SWEEP_CHUNK_MS = DAY_MS


def seal(connection: sa.Connection, request: SealRequest) -> Sealed:
    """Seal everything of the shard up to the horizon, late and fresh in the same transaction.

    Rests on rules S1 (one lock, first), S2 (arrivals and cursor from one later statement), S3, S4, S6 and S10.
    Errors: whatever the database refuses, for the caller to find the organisation it is about (S8).
    """
    lock, restored = lock_shard(connection, request)
    run = Statements(connection, request, lock.watermark_ms, lock.seen)
    go_by(run, request)
    some_stopped = narrow_if_needed(run, request)
    run.run("make_work")
    _scan(run, request, lock)
    new_orgs = register_unknown_orgs(run, request, lock)
    if some_stopped or run.run("any_below_floor").first():
        run.run("keep_below_floor", "later")
    run.run("late_is_dirty")
    if run.slots["scope"]:
        run.run("stopped_is_dirty", "later")
    if run.run("any_laggard").first():
        run.run("laggards_are_dirty", "scope")
    run.run("drop_partial")
    run.run("scan_dirty", "dirty_scope")
    run.run("withdrawn", "scope")
    run.run("withdrawn_dirty", "dirty_scope")
    know_tables(run)
    whole = request.only is None
    hold_what_is_open(run)
    sealed = write_owed(run, lock.epoch, reached_ms=request.horizon_ms if whole else 0)
    write_pending(run)
    advance(run, whole=whole)
    return Sealed(sealed.seal_id, sealed.pushes, new_orgs, restored)


def _scan(run: Statements, request: SealRequest, lock: Lock) -> None:
    """Add up fresh windows, and see what has arrived for others (S2)."""
    if run.is_postgresql:
        run.run("scan", "scope", "later", which="fresh_or_later")
        return
    if request.only is None:
        run.run("move_cursor")
    one_window = (
        lock.watermark_ms == window_of(lock.watermark_ms) and request.horizon_ms == lock.watermark_ms + WINDOW_MS
    )
    window, groups = ("the_one_window", "groups_of_one_window") if one_window else ("window", "groups")
    run.run("add_up", "scope", which="fresh", window=window, groups=groups)
    run.run("add_up", "scope", which="late")


def seal_range(
    connection: sa.Connection, request: SealRequest, from_ms: int, to_ms: int, *, biller: str | None = None
) -> Sealed:
    """Seal again what a past range [from_ms, to_ms) still owes; watermark, cursor and dirty windows stay as they are.

    Used by replay and by the nightly sweep. Windows at or above an organisation's watermark, or below its floor,
    are left alone; with `biller`, also those assigned to another provider.
    """
    lock, _ = lock_shard(connection, request)
    run = Statements(connection, request, from_ms)
    go_by(run, request)
    run.values.update(horizon_ms=min(to_ms, request.horizon_ms), biller=biller)
    narrow_if_needed(run, request)
    run.slots.update(
        only_below="below_watermark" if biller is None else "below_watermark_of_biller",
        dirty_scope="none_dirty",
    )
    run.run("make_work")
    run.run("add_up", "scope", which="fresh")
    run.run("withdrawn", "scope")
    know_tables(run)
    return write_owed(run, lock.epoch, reached_ms=0)


def sweep(connection: sa.Connection, request: SealRequest) -> Sealed | None:
    """One day of the nightly sweep of the late horizon (S2's net); None when it is done for today."""
    shard = {"lo": request.shard.lo, "hi": request.shard.hi}
    row = SQL.run(connection, "swept", shard).one()
    start, began, watermark = int(row.next_ms), int(row.began_ms), int(row.watermark_ms)
    if start >= min(watermark, window_of(began)):  # what was sealed since this round began is the next round's
        if request.now_ms - began < DAY_MS:
            return None
        start, began = 0, request.now_ms
    start = max(start, min(watermark, request.horizon_ms) - LATE_HORIZON_MS)
    end = min(start + SWEEP_CHUNK_MS, watermark, window_of(began))
    sealed = seal_range(connection, request, start, end) if end > start else None
    SQL.run(connection, "move_sweep", {**shard, "next_ms": end, "began_ms": began})
    return sealed
