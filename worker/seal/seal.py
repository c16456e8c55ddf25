"""Seal: write owed quantities as pushes and advance the watermark, atomically.

Guarantee: owed = samples in force - pushes not voided, for each (organisation, window, feature), computed from
committed rows. One function serves fresh, late, replayed, swept and newly mapped usage, with different ranges. If a
seal runs again after a crash, by a second worker or in a replay, the owed quantity is 0. The lock is a seal's first
statement (rule S1). The seal reads the mapping, terms and lost history under the lock, and binds them as values.

Each sample is read exactly once, for any order of commits (S2). `worker.seal.arrivals` explains the cursor. A
transaction that stays open, in any database of the server, does not delay a seal.

An organisation that is first seen in samples gets a row and a bucket before its usage is sealed or becomes pending
(S6). If a seal fails, dry runs of halves find the organisations at fault, and the seal leaves out only these (S8).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By, record
from drawdown.schema.locks import make_windows_dirty
from drawdown.schema.migrate import bucket_of
from drawdown.schema.sql import Queries, queries
from drawdown.schema.text import in_short
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS, WINDOW_MS, window_of
from drawdown.worker.catalog.mapping import mapping_rows, segments
from drawdown.worker.catalog.terms import stored_terms
from drawdown.worker.catalog.wallets import Claim, one_wallet_at, other_owners
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.seal.arrivals import UNREAD, ArrivalCursor, seen_by_all

SQL = queries(__file__)

SWEEP_CHUNK_MS = DAY_MS
"""Range of windows that one tick sweeps, in milliseconds."""


def seal(connection: sa.Connection, request: SealRequest) -> Sealed:
    """Seal the shard up to the horizon, late and fresh usage together.

    The seal follows rules S1 (one lock, first), S2 (arrivals and cursor from one later statement), S3, S4, S6 and S10.

    Errors: HistoryDoubted if the history changed, or a recovery is needed. Errors of the database, for which the caller
    finds the organisation at fault (S8).
    """
    lock, restored = lock_shard(connection, request)
    run = Statements(connection, request, lock.watermark_ms, lock.arrivals)
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
    """Add up fresh windows, and find late arrivals for sealed windows (S2)."""
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
    """Seal a past range [from_ms, to_ms) again.

    The watermark and dirty windows do not change. The cursor changes only if S2 finds that the database was restored:
    the next seal then reads all arrivals again.

    A replay and the nightly sweep use this. It does not seal windows at or above an organisation's watermark, or below
    its floor. `biller`: seal only windows that are assigned to this provider (None: any provider).

    Errors: those of `seal`.
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
    """Seal the next day of the nightly sweep (the fallback of S2).

    The sweep covers LATE_HORIZON_MS. None: today's sweep is complete, or the range is empty.
    """
    shard = {"lo": request.shard.lo, "hi": request.shard.hi}
    row = SQL.run(connection, "swept", shard).one()
    start, began, watermark = int(row.next_ms), int(row.began_ms), int(row.watermark_ms)
    if start >= min(watermark, window_of(began)):  # the next round covers newer windows
        if request.now_ms - began < DAY_MS:
            return None
        start, began = 0, request.now_ms
    start = max(start, min(watermark, request.horizon_ms) - LATE_HORIZON_MS)
    end = min(start + SWEEP_CHUNK_MS, watermark, window_of(began))
    sealed = seal_range(connection, request, start, end) if end > start else None
    SQL.run(connection, "move_sweep", {**shard, "next_ms": end, "began_ms": began})
    return sealed


def go_by(run: Statements, request: SealRequest) -> None:
    """Bind the mapping, terms and losses to the statements of owed quantities."""
    mapping = segments(mapping_rows(run.connection))
    terms = {**request.providers, **stored_terms(run.connection)}
    shadows = {name: its.live_from_ms for name, its in terms.items() if its.live_from_ms is not None}
    run.values.update(
        segments=[vars(segment) for segment in mapping],
        number_of_segments=len(mapping),
        providers=sorted(terms),
        live_from=json.dumps(shadows),
        shadow_until_ms=max(shadows.values(), default=0),
    )
    run.slots.update(
        mapped="mapped_exact" if all(segment.lo == segment.hi for segment in mapping) else "mapped_tiers",
        # If the request does not name providers, usage of every provider is sealed.
        of_providers="these_providers" if request.providers else "any_provider",
        lost="not_lost",
        otherwise="due",
    )
    _ask_first_what_was_lost(run, request.providers)
    _send_whole_units(run, terms)


def _ask_first_what_was_lost(run: Statements, providers: Mapping[str, Capabilities]) -> None:
    """Begin the pushes of a window with a lookup if its history was lost (R1)."""
    lost = run.run("last_loss", of=SQL).one()
    if lost.until_ms is None:
        return
    untold = [name for name, its in providers.items() if not its.lookup]
    run.values.update(
        lost_until_ms=lost.until_ms,
        last_lost_seal=lost.last_seal,
        untold=untold,
        not_asked=[*untold, *(name for name, its in providers.items() if its.same_database)],
    )
    run.slots.update(lost="lost_then", otherwise="asked_for_first")


def _send_whole_units(run: Statements, terms: Mapping[str, Capabilities]) -> None:
    """Choose between sending all of a quantity and only whole units (S10).

    Whole units are sent if a provider accepts only these, or does not accept negatives, or had such terms before.
    """
    rows = _term_rows(terms, set(run.run("carrying", of=SQL).scalars()))
    run.values.update(terms=rows, number_of_terms=len(rows))
    run.slots["sent"] = "sent_carried" if rows else "sent_whole"
    run.slots["gives_back"] = "gives_back_units" if rows else "gives_back"
    run.slots["open_of"] = "open_of_the_org" if rows else "open_of_the_window"
    run.slots["something_is_open"] = "of_the_org_is_open" if rows else "of_the_window_is_open"


def _term_rows(terms: Mapping[str, Capabilities], carrying: Collection[str]) -> list[dict[str, object]]:
    """Return the terms of providers with whole units, a carry, or no negatives.

    `carrying`: providers with a carry. If their terms have changed since, the next seal sends the carry.
    """
    return [
        {"provider": name, "feature": feature, "unit": unit, "negatives": int(its.negatives)}
        for name, its in terms.items()
        if its.unit != 1 or its.units or not its.negatives or name in carrying
        for feature, unit in (("", its.unit), *its.units.items())
    ]


def write_owed(run: Statements, epoch: int, *, reached_ms: int) -> Sealed:
    """Write the owed quantities as pushes of a new seal.

    `reached_ms`: the horizon to store with the seal; 0 if the seal does not advance the watermark.
    """
    cursor = run.run("oldest_cursor", of=SQL).scalar_one()
    run.values.update(oldest_cursor=cursor, epoch=epoch, reached_ms=reached_ms)
    number = int(run.run("begin_seal", of=SQL).scalar_one())
    run.values["seal_id"] = number
    if run.is_postgresql:
        run.run("sort_groups", of=SQL)
    slots = ("mapped", "prior_scope", "dirty_scope", "of_providers", "only_below", "lost", "otherwise", "sent")
    written = run.run("seal", *slots, "gives_back", of=SQL).rowcount
    if run.is_postgresql:
        run.run("hash_groups", of=SQL)
    if run.slots["sent"] != "sent_whole" and written:
        run.run("carry", of=SQL)
    return Sealed(number, written)


def write_pending(run: Statements) -> None:
    """Replace the pending usage of the windows to seal, with its reasons (S6)."""
    run.run("forget_pending", "pending_scope", "dirty_scope", of=SQL)
    run.run("pend", "mapped", "of_providers", of=SQL)


def hold_what_is_open(run: Statements) -> None:
    """Lock the open pushes of windows with usage to give back, until the commit.

    With whole units (S10), lock all open pushes of the windows' organisations.
    """
    # SQLite does not need this lock, because it has one writer at a time.
    if run.is_postgresql and run.run("any_dirty", "dirty_scope", of=SQL).first():
        run.run("hold_what_is_open", "open_of", "dirty_scope", of=SQL)


def advance(run: Statements, *, whole: bool) -> None:
    """Remove dirty windows that were sealed, and advance the watermark.

    A window in which less may be owed stays dirty while an earlier push of it is open (with whole units, of its
    organisation). `whole`: True if the whole shard was sealed; otherwise the watermark does not change.
    """
    run.run("forget_dirty", "pending_scope", "something_is_open", "dirty_scope", of=SQL)
    if whole:
        run.run("advance", of=SQL)
        run.run("catch_up", "pending_scope", of=SQL)


@dataclass(frozen=True)
class SealRequest:
    """The inputs of one seal transaction.

    `horizon_ms`: the end of the windows to seal. `providers`: the capabilities of this machine's providers, by name
    (empty: usage of any provider is sealed). `new_orgs`: how to assign new organisations (None: they stay unassigned).
    """

    shard: Shard
    horizon_ms: int
    now_ms: int
    providers: Mapping[str, Capabilities] = field(default_factory=dict)
    new_orgs: NewOrgs | None = None
    only: tuple[str, ...] | None = None
    """Seal only these organisations, without a change of watermarks; None: all.

    A replay uses this, and so does the search for an organisation at fault (S8).
    """
    witness: Witness | None = None
    """The local checkpoint with which the tick began (R1); None: without a checkpoint."""


@dataclass(frozen=True)
class Sealed:
    """The result of one seal transaction.

    `pushes`, `new_orgs`: the numbers of written pushes and of assigned new organisations. `restored`: True if S2 found
    that the database was restored. `seal_range` does not set it.
    """

    seal_id: int
    pushes: int
    new_orgs: int = 0
    restored: bool = False


@dataclass(frozen=True)
class Lock:
    """The state of the locked bucket rows.

    `arrivals`: the arrivals that seals have read. `epoch`: a number that grows by 1 when all arrivals are read again.
    """

    arrivals: ArrivalCursor
    watermark_ms: int
    """The highest watermark of the buckets."""
    epoch: int


class Statements:
    """A runner of SQL fragments with a seal's `values` and `slots`."""

    def __init__(
        self, connection: sa.Connection, request: SealRequest, watermark_ms: int, seen: ArrivalCursor = UNREAD
    ) -> None:
        self.connection = connection
        self.is_postgresql = connection.dialect.name == "postgresql"
        self.values: dict[str, object] = {
            "lo": request.shard.lo,
            "hi": request.shard.hi,
            "now_ms": request.now_ms,
            "horizon_ms": request.horizon_ms,
            "watermark_ms": watermark_ms,
            "scan_end_ms": min(watermark_ms, request.horizon_ms),
            **seen.values,
        }
        self.slots = {
            "later": seen.piece,
            "scope": "",
            "prior_scope": "",
            "dirty_scope": "",
            "pending_scope": "",
            "only_below": "",
        }

    def run(self, name: str, *slots: str, of: Queries = SQL, **chosen: str) -> sa.CursorResult[Any]:
        """Run a statement with fragments in its slots.

        `slots`: the names of slots for this seal's own fragments. `chosen`: other fragments, by slot.
        """
        chosen.update((slot, self.slots[slot]) for slot in slots)
        return of.run(self.connection, name, self.values, **chosen)


def lock_shard(connection: sa.Connection, request: SealRequest) -> tuple[Lock, bool]:
    """Lock the shard's buckets; return their state, and True after a restore (S2).

    Errors: HistoryDoubted if the history changed, or a recovery is needed (R1). Sealed usage stays sealed, so Drawdown
    could not repeat an assignment that the lost history made.
    """
    rows = SQL.run(connection, "lock_shard", {"lo": request.shard.lo, "hi": request.shard.hi}).all()
    assert rows, "the buckets are never deleted"
    require_same(connection, request.witness)
    lock = Lock(
        arrivals=seen_by_all(rows),
        watermark_ms=max(row.watermark_ms for row in rows),
        epoch=max(row.epoch for row in rows),
    )
    # S2: if the cursor is above the database's own counter, the database was restored.
    if max(row.cursor for row in rows) <= int(SQL.run(connection, "newest_arrival").scalar_one()):
        return lock, False
    return _restart_cursor(connection, request, lock), True


def _restart_cursor(connection: sa.Connection, request: SealRequest, lock: Lock) -> Lock:
    """Start a new epoch, in which all arrivals are read again.

    This cannot bill usage twice.
    """
    shard = request.shard
    SQL.run(connection, "restart_cursor", {"lo": shard.lo, "hi": shard.hi, "epoch": lock.epoch + 1})
    record(
        connection,
        "cursor_restart",
        f"buckets {shard.lo}..{shard.hi}",
        {"cursor": lock.arrivals.cursor},
        By(request.now_ms, "drawdown", "S2: the cursor exceeded the database's counter, so the database was restored"),
    )
    return Lock(UNREAD, watermark_ms=lock.watermark_ms, epoch=lock.epoch + 1)


def narrow_if_needed(run: Statements, request: SealRequest) -> bool:
    """Limit the scan to requested organisations, or exclude stopped organisations.

    Return True if stopped organisations are excluded. Their samples and pushes are not added up, because they would
    break the seal again (S8).
    """
    if request.only is not None:
        run.values["only"] = [{"org_id": org} for org in request.only]
        run.slots.update(
            scope="these_samples", prior_scope="these_pushes", dirty_scope="these_dirty", pending_scope="these_rows"
        )
        return False
    if run.run("count_stopped").scalar_one():
        run.slots.update(scope="going_samples", prior_scope="going_pushes")
        return True
    return False


def know_tables(run: Statements) -> None:
    """Update PostgreSQL's statistics of the tables.

    Without statistics, PostgreSQL joins row by row.
    """
    if run.is_postgresql:
        for name in run.run("unknown_tables").scalars().all():
            run.run(f"analyze_{name}")
        run.run("analyze_work")


AT_ONCE: Final = 20_000
"""Most organisations for which one statement writes rows."""


def register_unknown_orgs(run: Statements, request: SealRequest, lock: Lock) -> int:
    """Register organisations that are first seen in samples (S6).

    Each gets a row and a bucket. If the request has `new_orgs`, assign all organisations of the shard that were never
    assigned, unless another organisation owns their credit. Return the number of assignments.
    """
    found = [str(org) for org in run.run("strangers").scalars()]
    if run.run("any_laggard").first():
        found += [str(org) for org in run.run("strangers_behind", "scope").scalars()]
    _give_buckets(run.connection, request, found)
    return _assign_new(run.connection, request, lock) if request.new_orgs is not None else 0


def register_unknown_orgs_by_arrival(connection: sa.Connection, request: SealRequest) -> None:
    """Register organisations by the arrivals of samples, without a scan.

    Use this if a scan of the shard fails because a sample is at fault (S8).
    """
    lock, _ = lock_shard(connection, request)
    found = SQL.run(connection, "strangers_by_arrival", lock.arrivals.values, later=lock.arrivals.piece).scalars()
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
    # By default, an assignment begins at the watermark, the end of sealed usage. Before the first tick, the watermark
    # is 0 and would include all history, so the assignment begins at the horizon.
    start = new.start_ms if new.start_ms is not None else (lock.watermark_ms or request.horizon_ms)
    unassigned = [str(org) for org in SQL.run(connection, "unassigned", {"lo": shard.lo, "hi": shard.hi}).scalars()]
    declared = request.providers.get(new.provider)
    # Usage of an organisation without a customer id is pending until a person sets the id.
    customers = {org: org if declared is None else declared.customer_of(org) for org in unassigned}
    claims = [Claim(org, customer, start) for org, customer in customers.items() if customer]
    taken = {claim.org_id for claim in other_owners(connection, claims, one_wallet_at(connection, new.provider))}
    said = {"actor": "drawdown", "reason": "--new-org-provider", "now_ms": request.now_ms}
    rows = [
        {"org_id": org, "start_ms": start, "provider": new.provider, "customer_id": customer, **said}
        for org, customer in customers.items()
        if org not in taken
    ]
    if rows:
        SQL.run(connection, "assign", rows)
        SQL.run(connection, "bill_by", rows)
        assigned = [{"org_id": row["org_id"]} for row in rows]
        values = {"start_ms": start, "assigned": assigned}
        make_windows_dirty(connection, SQL, "pending_of_assigned", values, lo=shard.lo, hi=shard.hi)
    return len(rows)


Probe = Callable[[tuple[str, ...]], Callable[[sa.Connection], object]]
"""A function that returns the work that fails, limited to some organisations."""


@dataclass(frozen=True)
class Bad:
    """An organisation that cannot be sealed, and the database's error."""

    org_id: str
    reason: str


def find_bad(candidates: Sequence[str], probe: Probe) -> Steps[list[Bad]]:
    """Return the candidates on which the work fails.

    Errors: those of the database, if the work also fails without candidates.
    """
    yield Transaction("probe", probe(()), rollback=True)
    groups = [tuple(candidates)] if candidates else []
    found: list[Bad] = []
    while groups:
        group = groups.pop()
        try:
            yield Transaction("probe", probe(group), rollback=True)
        except DBAPIError as error:
            middle = len(group) // 2
            if middle:
                groups += [group[middle:], group[:middle]]
            else:
                found.append(Bad(group[0], f"cannot be sealed: {in_short(error)}"))
    return found
