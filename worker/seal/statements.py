"""What a seal is asked for, its lock, and how its statements run.

Guarantee: the lock is a seal's first statement (rule S1), and values are bound, never pasted into SQL.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema import plans
from drawdown.schema.audit import Said, record
from drawdown.schema.sql import rows_sql
from drawdown.schema.tables import buckets
from drawdown.schema.units import WINDOW_MS, window_of
from drawdown.worker.catalog.mapping import mapping_rows, segments, segments_sql
from drawdown.worker.catalog.terms import stored_terms
from drawdown.worker.engine.effects import Witness
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.seal import queries as sql
from drawdown.worker.seal.arrivals import UNREAD, Seen, seen_by_all


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
    witness: Witness | None = None
    """What the tick began on (R1)."""


@dataclass(frozen=True)
class Sealed:
    """What one seal transaction did."""

    seal_id: int
    pushes: int
    new_orgs: int = 0
    restored: bool = False


@dataclass(frozen=True)
class Lock:
    """What the bucket rows said once they were locked."""

    seen: Seen
    pack_ms: int
    epoch: int


class Statements:
    """Runs the named statements with this seal's values."""

    def __init__(self, connection: sa.Connection, request: SealRequest, pack_ms: int, seen: Seen = UNREAD) -> None:
        self.connection = connection
        self.values: dict[str, int | str] = {
            "lo": request.shard.lo,
            "hi": request.shard.hi,
            "now": request.now_ms,
            "horizon": request.horizon_ms,
            "pack": pack_ms,
            "upto": min(pack_ms, request.horizon_ms),
            "cursor": seen.cursor,
            "first": 0,
            "seal_id": 0,
        }
        mapping = segments(mapping_rows(connection))
        providers = {**request.providers, **stored_terms(connection)}
        one_window = pack_ms == window_of(pack_ms) and request.horizon_ms == pack_ms + WINDOW_MS
        lost, states = _lost_sql(connection, request.providers)
        self.texts = {
            **(plans.FRESH_ONE if one_window else plans.FRESH_MANY),
            "seconds": plans.SECONDS[connection.dialect.name],
            "apart": plans.APART[connection.dialect.name],
            "then": plans.THEN[connection.dialect.name],
            **plans.LOOK[connection.dialect.name],
            "mapped": plans.MAPPED_EXACT if all(one.lo == one.hi for one in mapping) else plans.MAPPED_TIERS,
            "later": seen.later,
            "scope": "",
            "prior_scope": "",
            "dirty_scope": "",
            "pending_scope": "",
            "below_watermark": "",
            "segments": segments_sql(mapping),
            "sent": _sent_sql(providers, _carrying(connection)),
            "shadow": _shadow_sql(providers),
            "lost": lost,
            "else": states,
            # Names of providers are made of a-z, 0-9 and _. None at all are given where it does not matter who bills.
            "known": ", ".join(f"'{name}'" for name in sorted(providers)) if request.providers else "a.provider",
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


def _carrying(connection: sa.Connection) -> set[str]:
    """Providers with something left over. Terms may have changed since: what smaller units, or negatives that were not
    taken, left behind is sent with what is sealed next."""
    return set(connection.execute(sa.text("SELECT DISTINCT provider FROM carries WHERE carry_qty <> 0")).scalars())


def _sent_sql(providers: Mapping[str, Capabilities], carrying: Collection[str]) -> str:
    """All of the owed quantity is sent, unless some provider takes only whole units or no negatives (S10), or did."""
    rows = [
        (name, feature, unit, int(can.negatives))
        for name, can in providers.items()
        if can.unit != 1 or can.units or not can.negatives or name in carrying
        for feature, unit in (("", can.unit), *can.units.items())
    ]
    if not rows:
        return sql.SENT_WHOLE
    terms = " UNION ALL ".join(
        f"SELECT '{name}' AS provider, '{feature}' AS feature, {unit} AS unit, {negatives} AS negatives"
        for name, feature, unit, negatives in rows
    )
    return sql.SENT_CARRIED.replace("{terms}", terms)


def _shadow_sql(providers: Mapping[str, Capabilities]) -> str:
    """Which of what is billed is sealed and never sent. Names of providers are made of a-z, 0-9 and _."""
    later = [(name, can.live_from_ms) for name, can in providers.items() if can.live_from_ms is not None]
    return " OR ".join(f"(a.provider = '{name}' AND w.window_ms < {live})" for name, live in later) or "1 = 0"


def _lost_sql(connection: sa.Connection, providers: Mapping[str, Capabilities]) -> tuple[str, str]:
    """In windows whose history was lost (R1), a push may be known at its provider already: it is looked up before it
    is first sent, or decided by a person where nothing can be looked up, once. What is carried is asked for as well:
    sealed in another order, its window may have been sent a whole unit. Returns what that holds for, and the states."""
    until, last_seal = connection.execute(sa.text("SELECT MAX(until_ms), MAX(seal_id) FROM losses")).one()
    if until is None:
        return "1 = 0", "ELSE 'due'"
    here = ", ".join(f"'{name}'" for name, can in providers.items() if can.same_database) or "''"
    untold = ", ".join(f"'{name}'" for name, can in providers.items() if not can.lookup) or "''"
    # A person decided about one that was asked for and could not be told: the next would be no other.
    decided = (
        "EXISTS (SELECT 1 FROM voids v JOIN pushes q ON q.window_ms = v.window_ms AND q.org_id = v.org_id "
        "AND q.feature = v.feature AND q.revision = v.revision WHERE v.window_ms = sized.window_ms "
        "AND v.org_id = sized.org_id AND v.feature = sized.feature AND v.evidence_kind = 'operator' "
        f"AND q.seal_id > {last_seal})"
    )
    asked = f"window_ms < {until} AND shadow = 0 AND provider NOT IN ({here}, {untold}) AND NOT {decided}"
    return asked, (
        f"WHEN {asked} THEN 'queued' WHEN window_ms < {until} AND provider IN ({untold}) AND NOT {decided} "
        "THEN 'in_doubt' ELSE 'due'"
    )


def lock_shard(connection: sa.Connection, request: SealRequest) -> tuple[Lock, bool]:
    """Errors: HistoryDoubted while the database stands still (R1): what is sealed for a biller stays sealed, and a flip
    that was lost could then not be made again."""
    postgres = connection.dialect.name == "postgresql"
    text = sql.LOCK.replace("{for_update}", "FOR UPDATE" if postgres else "")
    rows = connection.execute(sa.text(text), {"lo": request.shard.lo, "hi": request.shard.hi}).all()
    assert rows, "the buckets are never deleted"
    require_same(connection, request.witness)
    lock = Lock(
        seen=seen_by_all(rows),
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


def _restart_cursor(connection: sa.Connection, request: SealRequest, lock: Lock) -> Lock:
    """Start a new epoch: read all arrivals again. Nothing can be billed twice by it, only found."""
    connection.execute(
        buckets.update()
        .where(buckets.c.id.between(request.shard.lo, request.shard.hi))
        .values(cursor=0, epoch=lock.epoch + 1)
    )
    record(
        connection,
        "cursor_restart",
        f"buckets {request.shard.lo}..{request.shard.hi}",
        {"cursor": lock.seen.cursor},
        Said(request.now_ms, "drawdown", "S2: the cursor lay beyond the database's own counter: it was restored"),
    )
    return Lock(UNREAD, pack_ms=lock.pack_ms, epoch=lock.epoch + 1)


def narrow_if_needed(run: Statements, connection: sa.Connection, request: SealRequest) -> bool:
    """A stopped organisation's samples and pushes are not even added up: what broke the seal would again (S8).

    Returns whether there is one."""
    shard = {"lo": request.shard.lo, "hi": request.shard.hi}
    if request.only is not None:
        run.values["only"] = json.dumps([{"org_id": org} for org in request.only])
        run.narrow("{} IN (" + rows_sql(connection, {"org_id": "text"}).replace(":rows", ":only") + ")")
        return False
    stopped = "SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL AND bucket BETWEEN :lo AND :hi"
    if connection.execute(sa.text(stopped), shard).scalar_one():
        for name, column in (("scope", "s.org_id"), ("prior_scope", "p.org_id")):
            run.texts[name] += f" AND {column} NOT IN (SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL)"
        return True
    return False


def make_work_table(connection: sa.Connection) -> None:
    for statement in sql.WORK_TABLES[connection.dialect.name]:
        connection.execute(sa.text(statement))


def know_tables(run: Statements) -> None:
    """Give PostgreSQL's planner the statistics without which it joins row by row."""
    if run.connection.dialect.name == "postgresql":
        for name in run.run(plans.UNKNOWN_TABLES).scalars().all():
            run.connection.execute(sa.text(f"ANALYZE {name}"))
    for statement in plans.KNOW_WORK[run.connection.dialect.name]:
        run.run(statement)
