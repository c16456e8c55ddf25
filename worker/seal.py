"""Seal: write what is owed as immutable pushes and advance the watermark, in one transaction.

Guarantee: owed = samples in force - sealed and not voided, for each (organisation, window, feature), computed from what
is committed. One function serves fresh, late, replayed, swept and newly mapped usage, with different ranges; so a
crash, a second worker or a replay can only find that nothing is owed any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.database import rows_sql
from drawdown.schema.migrate import bucket_of
from drawdown.schema.tables import assignments, buckets, operator_actions, orgs, seals
from drawdown.schema.units import BUCKETS, DAY_MS, LATE_HORIZON_MS, window_of
from drawdown.worker import seal_sql as sql
from drawdown.worker.mapping import MappingRow, Segment, segments

SWEEP_CHUNK_MS = DAY_MS


@dataclass(frozen=True)
class Shard:
    """The buckets lo..hi (inclusive) that one worker takes."""

    lo: int = 0
    hi: int = BUCKETS - 1


@dataclass(frozen=True)
class NewOrgs:
    """`--new-org-provider`: assign organisations as they appear. `start_ms` None: from the watermark on."""

    provider: str
    start_ms: int | None = None


@dataclass(frozen=True)
class SealRequest:
    """What one seal transaction is asked for."""

    shard: Shard
    horizon_ms: int
    now_ms: int
    providers: Mapping[str, Capabilities] = field(default_factory=dict)
    new_orgs: NewOrgs | None = None
    only: tuple[str, ...] | None = None
    """Seal these organisations alone and move no watermark: how a bad one is found (S8)."""


@dataclass(frozen=True)
class Sealed:
    """What one seal transaction did."""

    seal_id: int
    pushes: int
    new_orgs: int = 0
    restored: bool = False


@dataclass(frozen=True)
class _Lock:
    """What the bucket rows said once they were locked."""

    cursor: int
    pack_ms: int
    epoch: int


class Statements:
    """Runs the named statements with this seal's values."""

    def __init__(self, connection: sa.Connection, request: SealRequest, pack_ms: int, cursor: int = 0) -> None:
        self.connection = connection
        self.values: dict[str, int | str] = {
            "lo": request.shard.lo,
            "hi": request.shard.hi,
            "now": request.now_ms,
            "horizon": request.horizon_ms,
            "pack": pack_ms,
            "upto": min(pack_ms, request.horizon_ms),
            "cursor": cursor,
            "first": 0,
            "seal_id": 0,
        }
        mapping = segments(mapping_rows(connection))
        self.texts = {
            "seconds": sql.SECONDS[connection.dialect.name],
            "mapped": sql.MAPPED_EXACT if all(one.lo == one.hi for one in mapping) else sql.MAPPED_TIERS,
            "scope": "",
            "prior_scope": "",
            "dirty_scope": "",
            "pending_scope": "",
            "below_watermark": "",
            "segments": _segments_sql(mapping),
            "sent": _sent_sql(request.providers),
        }

    def narrow(self, predicate: str) -> None:
        """Let only organisations for which `predicate` (over `{}`) holds take part."""
        for name, column in (
            ("scope", "s.org_id"),
            ("prior_scope", "p.org_id"),
            ("dirty_scope", "d.org_id"),
            ("pending_scope", "org_id"),
        ):
            self.texts[name] += f" AND {predicate.format(column)}"

    def run(self, statement: str, **values: int) -> sa.CursorResult[tuple[object, ...]]:
        text = statement
        for name, replacement in self.texts.items():
            text = text.replace("{" + name + "}", replacement)
        prepared = sa.text(text)
        known = {**self.values, **values}
        return self.connection.execute(prepared, {name: known[name] for name in prepared._bindparams})


def mapping_rows(connection: sa.Connection) -> list[MappingRow]:
    """The whole mapping, in the order it was added."""
    rows = connection.execute(
        sa.text("SELECT kind, memory_mb, feature, unit, start_ms FROM mappings ORDER BY mapping_id")
    )
    return [MappingRow(*row) for row in rows]


def _segments_sql(found: Sequence[Segment]) -> str:
    """The mapping as SQL values. Features are made of a-z, 0-9 and _ by a constraint of the table."""
    if not found:
        return "SELECT 0, 0, 0, 0, '', '' WHERE 1 = 0"
    rows = ", ".join(f"({g.lo}, {g.hi}, {g.start_ms}, {g.end_ms}, '{g.feature}', '{g.unit}')" for g in found)
    return f"VALUES {rows}"


def _sent_sql(providers: Mapping[str, Capabilities]) -> str:
    """All of the owed quantity is sent, unless some provider takes only whole units or no negatives (S10)."""
    carrying = [(name, c.unit, int(c.negatives)) for name, c in providers.items() if c.unit != 1 or not c.negatives]
    if not carrying:
        return sql.SENT_WHOLE
    terms = " UNION ALL ".join(
        f"SELECT '{name}' AS provider, {unit} AS unit, {negatives} AS negatives" for name, unit, negatives in carrying
    )
    return sql.SENT_CARRIED.replace("{terms}", terms)


def seal(connection: sa.Connection, request: SealRequest) -> Sealed:
    """Seal everything of the shard up to the horizon, late and fresh in the same transaction.

    Rests on rules S1 (one lock, first), S2 (arrivals and cursor from one later statement), S3, S4, S6 and S10.
    Errors: whatever the database refuses, for the caller to find the organisation it is about (S8).
    """
    lock, restored = _lock(connection, request)
    run = Statements(connection, request, lock.pack_ms, lock.cursor)
    some_stopped = _narrow_if_needed(run, connection, request)
    _make_work_table(connection)
    for statement in sql.SCAN[connection.dialect.name]:
        if request.only is None or "UPDATE buckets" not in statement or connection.dialect.name == "postgresql":
            run.run(statement)
    new_orgs = _meet_strangers(run, connection, request, lock)
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
    for statement in sql.KNOW_WORK[connection.dialect.name]:
        run.run(statement)
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


def seal_range(connection: sa.Connection, request: SealRequest, from_ms: int, to_ms: int) -> Sealed:
    """Seal again what a past range [from_ms, to_ms) still owes; watermark, cursor and dirty windows stay as they are.

    Used by replay and by the nightly sweep. Windows at or above an organisation's watermark, or below its floor,
    are left alone.
    """
    lock, _ = _lock(connection, request)
    run = Statements(connection, request, from_ms)
    run.values.update(horizon=min(to_ms, request.horizon_ms))
    run.texts["below_watermark"] = sql.BELOW_WATERMARK
    _narrow_if_needed(run, connection, request)
    run.texts["dirty_scope"] += " AND 1 = 0"  # the work table holds the range's samples alone
    _make_work_table(connection)
    where = "s.ts >= :pack AND s.ts < :horizon"
    run.run(sql._AGGREGATE.replace("{where}", where))
    run.run(sql.WITHDRAWN)
    for statement in sql.KNOW_WORK[connection.dialect.name]:
        run.run(statement)
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


def _lock(connection: sa.Connection, request: SealRequest) -> tuple[_Lock, bool]:
    postgres = connection.dialect.name == "postgresql"
    text = sql.LOCK.replace("{for_update}", "FOR UPDATE" if postgres else "")
    rows = connection.execute(sa.text(text), {"lo": request.shard.lo, "hi": request.shard.hi}).all()
    assert rows, "the buckets are never deleted"
    lock = _Lock(
        cursor=min(row.cursor for row in rows),
        pack_ms=max(row.watermark_ms for row in rows),
        epoch=max(row.epoch for row in rows),
    )
    if not _beyond_the_database(connection, max(row.cursor for row in rows)):
        return lock, False
    return _restart_cursor(connection, request, lock), True


def _beyond_the_database(connection: sa.Connection, cursor: int) -> bool:
    """S2: a cursor that the database's own counter has not reached yet comes from before a restore."""
    if connection.dialect.name == "postgresql":
        newest = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    else:
        newest = "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'usage_samples'), 0) + 1"
    return cursor > int(connection.execute(sa.text(newest)).scalar_one())


def _restart_cursor(connection: sa.Connection, request: SealRequest, lock: _Lock) -> _Lock:
    """Start a new epoch: read all arrivals again. Nothing can be billed twice by it, only found."""
    connection.execute(
        buckets.update()
        .where(buckets.c.id.between(request.shard.lo, request.shard.hi))
        .values(cursor=0, epoch=lock.epoch + 1)
    )
    connection.execute(
        operator_actions.insert().values(
            at_ms=request.now_ms,
            action="cursor_restart",
            target=f"buckets {request.shard.lo}..{request.shard.hi}",
            details=f"cursor {lock.cursor} lay beyond the database's own counter: it was restored",
            actor="drawdown",
            reason="S2",
        )
    )
    return _Lock(cursor=0, pack_ms=lock.pack_ms, epoch=lock.epoch + 1)


def _narrow_if_needed(run: Statements, connection: sa.Connection, request: SealRequest) -> bool:
    """A stopped organisation's samples are not even added up: what broke the seal would break it again (S8).

    Returns whether there is one."""
    shard = {"lo": request.shard.lo, "hi": request.shard.hi}
    if request.only is not None:
        run.values["only"] = json.dumps([{"org_id": org} for org in request.only])
        run.narrow("{} IN (" + rows_sql(connection, {"org_id": "text"}).replace(":rows", ":only") + ")")
        return False
    stopped = "SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL AND bucket BETWEEN :lo AND :hi"
    if connection.execute(sa.text(stopped), shard).scalar_one():
        run.texts["scope"] += " AND s.org_id NOT IN (SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL)"
        return True
    return False


def _make_work_table(connection: sa.Connection) -> None:
    for statement in sql.WORK_TABLES[connection.dialect.name]:
        connection.execute(sa.text(statement))


def _meet_strangers(run: Statements, connection: sa.Connection, request: SealRequest, lock: _Lock) -> int:
    """Give a row and a bucket to organisations first seen in samples; assign them where that is asked for (S6)."""
    found = [str(row[0]) for row in run.run(sql.STRANGERS)]
    if run.run(sql.ANY_LAGGARD).first():
        found += [str(row[0]) for row in run.run(sql.STRANGERS_BEHIND)]
    _give_buckets(connection, request, found)
    return _assign_new(connection, request, lock) if request.new_orgs is not None else 0


def meet_strangers_by_arrival(connection: sa.Connection, request: SealRequest) -> None:
    """The same without a scan, for when the shard's samples cannot be added up: one of them is at fault (S8)."""
    lock, _ = _lock(connection, request)
    found = connection.execute(sa.text(sql.STRANGERS_BY_ARRIVAL), {"cursor": lock.cursor})
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


def _assign_new(connection: sa.Connection, request: SealRequest, lock: _Lock) -> int:
    new = request.new_orgs
    assert new is not None
    # The watermark is the first moment nothing was sealed for; before the very first tick that would be all history.
    start = new.start_ms if new.start_ms is not None else (lock.pack_ms or request.horizon_ms)
    unassigned = connection.execute(
        sa.text(
            "SELECT org_id FROM orgs o WHERE bucket BETWEEN :lo AND :hi AND NOT EXISTS "
            "(SELECT 1 FROM assignments a WHERE a.org_id = o.org_id) AND NOT EXISTS (SELECT 1 FROM assignments c "
            "WHERE c.provider = :provider AND c.customer_id = o.org_id AND c.end_ms IS NULL)"
        ),
        {"lo": request.shard.lo, "hi": request.shard.hi, "provider": new.provider},
    ).scalars()
    said = {"actor": "drawdown", "reason": "--new-org-provider", "at_ms": request.now_ms}
    rows = [
        {"org_id": org, "start_ms": start, "provider": new.provider, "customer_id": org, **said} for org in unassigned
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
        connection.execute(
            sa.text(
                "INSERT INTO dirty_windows (org_id, window_ms) SELECT DISTINCT org_id, window_ms FROM pending_usage "
                "WHERE org_id = :name AND window_ms >= :start ON CONFLICT DO NOTHING"
            ),
            [{"name": name, "start": start} for name in names],
        )
    return len(rows)


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
    sorting = sql.GROUP_BY_SORTING[connection.dialect.name]
    for statement in sorting[:1]:
        run.run(statement)
    written = run.run(sql.SEAL, seal_id=number).rowcount
    for statement in sorting[1:]:
        run.run(statement)
    if run.texts["sent"] != sql.SENT_WHOLE and written:
        run.run(sql.CARRY, seal_id=number)
    return Sealed(number, written)
