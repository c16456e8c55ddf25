"""Replay: seal a past range again, and send the resulting pushes.

Guarantee: sealed quantities are subtracted, so a replay of a healthy range does not send any push and cannot bill
twice. A replay works in chunks, and ticks run between them. The transaction of a chunk seals and stores the progress.
If a replay is killed, the next run of the same scope and range continues from its progress, within RESUME_MS after its
lease. A later run begins again. The seal's lock alone keeps bills correct. The lease only prevents a second replay of
the same windows, so that its report is clear. In a dry run, each transaction is rolled back. If a dry run for a page
reaches its time limit, it ends between two transactions and reports that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.database import Transact
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, in_short
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.catalog.wallets import add, rate_card
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import LoadWitness, RunTogether, Steps, Transaction
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import HistoryDoubted, present, recognise
from drawdown.worker.push.push import push
from drawdown.worker.replay.plan import ReplayAhead, ReplayAtWork, ReplayPlan, ReplayScope, in_the_way, overlaps
from drawdown.worker.seal import seal as sealing
from drawdown.worker.seal.seal import Bad, SealRequest, find_bad
from drawdown.worker.seal.stops import stop_org
from drawdown.worker.status.backlog import Backlog, read_backlog
from drawdown.worker.verdict.project import project

log = structlog.get_logger()

SQL = queries(__file__)

SHOWN: Final = 1000
"""Most pushes that the report of a replay lists. The report counts all pushes."""
FIRST_CHUNK: Final = 12 * WINDOW_MS
"""Range of the first chunk of a replay, in milliseconds."""
CHUNK_LOAD: Final = 400_000
"""Approximate number of samples and sums that one transaction reads, in a second or two."""
RESUME_MS: Final = DAY_MS
"""Milliseconds after the end of a dead replay's lease within which a repeat continues the replay.

A later repeat begins again, because its caller may have another reason.
"""


@dataclass
class Replayed:
    """The result of a replay.

    `pushes`, `quantity`: the number and the quantity of all found pushes. `first`: the first of these pushes.
    `resumed_from_ms`: the window from which the replay continued an earlier run (None: it is a new run). `totals`: the
    sums of all found pushes, by organisation, provider and feature. `left_out`: usage that did not become a push, by
    reason. `failures`: reasons why pushes to a provider were not sent. `quantity` and `open_quantity` are in base
    units, of all features together.
    """

    from_ms: int
    to_ms: int
    dry_run: bool
    resumed_from_ms: int | None = None
    pushes_before: int = 0
    """The number of pushes that the earlier run sealed."""
    pushes: int = 0
    quantity: int = 0
    first: list[FoundPush] = field(default_factory=list)
    totals: list[Tally] = field(default_factory=list)
    left_out: list[SkippedUsage] = field(default_factory=list)
    stopped: list[Bad] = field(default_factory=list)
    """Organisations that the replay excludes, because their seal fails (S8). Except in a dry run, the replay stops
    these organisations.
    """
    failures: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)
    """Providers of found pushes to which Drawdown cannot send now."""
    unfinished: bool = False
    """True if time was over before the end of the range.

    A repeat of the same replay continues there, except after a dry run.
    """
    backlog: Backlog = field(default_factory=Backlog)
    open_pushes: int = 0
    """The number of pushes of the range that are sealed, now or before, and not settled yet."""
    open_quantity: int = 0

    @property
    def to_settle(self) -> str:
        """Return a text about the open pushes of the range; '' if all are settled."""
        if not self.open_pushes:
            return ""
        what = counted(self.open_pushes, "push", "pushes")
        units = counted(self.open_quantity, "unit")
        return f"{what} ({units}) {'is' if self.open_pushes == 1 else 'are'} still to be settled"

    @property
    def exit_status(self) -> int:
        """Return 0 if all is settled, 75 if work is left, 1 if a person must act.

        After a dry run, return 1 if an organisation cannot be sealed, else 0.
        """
        if self.stopped:
            return 1
        if self.dry_run:
            return 0
        if self.backlog.needs_person:
            return 1
        return 75 if self.unfinished or self.failures or self.backlog.due or self.backlog.queued else 0


@dataclass(frozen=True)
class Begun:
    """The stored progress of a replay.

    `resumed`: True if it continues an earlier run. `next_ms`: the window from which it continues. `pushes`: the number
    of pushes that earlier runs sealed.
    """

    replay_id: int
    next_ms: int
    pushes: int
    resumed: bool


@dataclass(frozen=True)
class Chunk:
    """The result of one chunk.

    `load`: the number of samples and sums that the chunk read. `unfinished`: as in `Replayed`.
    """

    pushes: Sequence[FoundPush]
    left_out: Sequence[SkippedUsage]
    load: int
    unfinished: bool


def replay(
    context: Context, plan: ReplayPlan, by: By, *, dry_run: bool, most: int | None = SHOWN, job_id: int | None = None
) -> Steps[Replayed]:
    """Seal the planned windows again, and send the resulting pushes.

    `dry_run`: True to roll all changes back. `most`: the largest number of listed pushes (None: all). `job_id`: the job
    of the replay (None: it was not queued).

    Errors: ReplayAtWork while another process replays some of these windows. ReplayAhead if the stored progress has
    reached the end of the plan, and the range continues. HistoryDoubted while a recovery is needed, or if the database
    changed since the replay began. An error of the database, unless an organisation is at fault.
    """
    result = Replayed(plan.from_ms, plan.to_ms, dry_run)
    begun: Begun | None = None
    if not dry_run:
        witness: Witness | None = yield LoadWitness()
        # Store a doubt about the history in a separate transaction, because a refused replay rolls its own transaction
        # back.
        yield Transaction("recognise", partial(recognise, witness=witness, now_ms=context.clock.now_ms()))
        begin = partial(_begin, context=context, witness=witness, plan=plan, by=by, job_id=job_id)
        begun = yield Transaction("begin_replay", begin)
        result.pushes_before = begun.pushes
        result.resumed_from_ms = begun.next_ms if begun.resumed else None
    yield from _seal_all(context, plan, begun, result, most)
    if result.unfinished:
        return result  # the next tick sends due pushes
    if not dry_run and (result.pushes or result.pushes_before):
        yield from _send_all(context, result)
    result.open_pushes, result.open_quantity = yield Transaction("replay_open", partial(still_open, plan=plan))
    if dry_run:
        return result
    result.backlog = yield Transaction(
        "replay_backlog", lambda c: read_backlog(c, context.shard, context.clock.now_ms())
    )
    return result


def _seal_all(
    context: Context, plan: ReplayPlan, begun: Begun | None, result: Replayed, most: int | None
) -> Steps[None]:
    at, size = plan.from_ms if begun is None else max(plan.from_ms, begun.next_ms), FIRST_CHUNK
    totals: dict[tuple[str, str, str], Tally] = {}
    left: dict[tuple[str, str], SkippedUsage] = {}
    only = None if plan.orgs is None else tuple(org for org in plan.orgs if org not in set(plan.stopped))
    context.advanced("range", (plan.to_ms - at) // WINDOW_MS)
    while at < plan.to_ms and not result.unfinished:
        end = min(at + size, plan.to_ms)
        work = partial(_chunk, context=context, plan=plan, begun=begun, start=at, end=end, only=only)
        try:
            chunk: Chunk = yield Transaction("replay", work, rollback=begun is None)
        except DBAPIError as error:
            tried = (yield Transaction("orgs_to_replay", _everybody)) if only is None else only
            bad = yield from _find_and_stop(context, plan, (at, end), tried, dry_run=begun is None)
            if not bad:
                raise error from None
            result.stopped += bad
            only = tuple(org_id for org_id in tried if org_id not in {org.org_id for org in bad})
            continue
        for found in chunk.pushes:
            result.pushes += 1
            result.quantity += found.quantity
            totals.setdefault((found.org_id, found.provider, found.feature), Tally.of(found)).add(found)
            if most is None or len(result.first) < most:
                result.first.append(found)
        for part in chunk.left_out:
            left.setdefault((part.why, part.unit), SkippedUsage(part.why, part.unit)).add(part)
        context.advanced("replayed", (end - at) // WINDOW_MS)
        at, size = end, next_size(size, chunk.load)
        result.unfinished = chunk.unfinished
    result.totals = [totals[name] for name in sorted(totals)]
    result.left_out = [left[name] for name in sorted(left)]


def _find_and_stop(
    context: Context, plan: ReplayPlan, span: tuple[int, int], orgs: Sequence[str], *, dry_run: bool
) -> Steps[list[Bad]]:
    """Find and stop the organisations on which a chunk fails, as in a tick (S8).

    A dry run does not stop them.
    """

    def probe(only: tuple[str, ...]) -> Callable[[sa.Connection], object]:
        request = _request(context, plan, only)
        return lambda c: sealing.seal_range(c, request, *span, biller=plan.scope.provider)

    found = yield from find_bad(orgs, probe)
    for org in found:
        log.error("org_left_out", org=org.org_id, reason=org.reason, dry_run=dry_run)
        if not dry_run:
            stop = partial(stop_org, org_id=org.org_id, reason=org.reason, now_ms=context.clock.now_ms())
            yield Transaction("stop_org", partial(stop, actor="drawdown"))
    return found


def _request(context: Context, plan: ReplayPlan, only: tuple[str, ...] | None) -> SealRequest:
    return SealRequest(
        shard=context.shard,
        horizon_ms=plan.to_ms,
        now_ms=context.clock.now_ms(),
        providers=context.declared(),
        only=only,
        witness=context.witness,
    )


def _everybody(connection: sa.Connection) -> tuple[str, ...]:
    return tuple(str(org_id) for org_id in SQL.run(connection, "everybody").scalars())


def next_size(size: int, load: int) -> int:
    """Return the length of the next chunk in milliseconds, from a window to a day.

    The chunk is shorter if the last chunk read many samples. `size`: the length of the last chunk, in milliseconds.
    `load`: the number of samples and sums that the last chunk read.
    """
    wanted = size * CHUNK_LOAD // max(load, 1)
    return int(min(max(wanted - wanted % WINDOW_MS, WINDOW_MS), 4 * size, DAY_MS))


def _chunk(
    connection: sa.Connection,
    *,
    context: Context,
    plan: ReplayPlan,
    begun: Begun | None,
    start: int,
    end: int,
    only: tuple[str, ...] | None,
) -> Chunk:
    request = _request(context, plan, only)
    sealed = sealing.seal_range(connection, request, start, end, biller=plan.scope.provider)
    found = found_in(connection, sealed.seal_id, start) if sealed.pushes else []
    load = SQL.run(connection, "load").scalar_one()
    left_out, done = left_in(connection, plan, start, end, sealed.seal_id), end >= plan.to_ms
    chunk = Chunk(found, left_out, int(load), unfinished=not done and context.out_of_time())
    if begun is not None:
        lease_ms = 0 if chunk.unfinished else LEASE_MS  # so that a repeat can continue at once
        _advance(connection, context, begun, (start, end), sealed.pushes, lease_ms, done=done)
    return chunk


def _advance(
    connection: sa.Connection,
    context: Context,
    begun: Begun,
    span: tuple[int, int],
    pushes: int,
    lease_ms: int,
    *,
    done: bool,
) -> None:
    now = context.clock.now_ms()
    which = {"replay_id": begun.replay_id, "worker": context.worker, "start_ms": span[0]}
    moved = {"next_ms": span[1], "pushes": pushes, "lease_ms": now + lease_ms, "finished_ms": now if done else None}
    if SQL.run(connection, "advance", {**which, **moved}).rowcount != 1:
        raise ReplayAtWork(
            "this replay stopped for so long that another process took it over. The replay continues "
            "there, and Drawdown bills the usage exactly once"
        )


def _begin(
    connection: sa.Connection,
    *,
    context: Context,
    witness: Witness | None,
    plan: ReplayPlan,
    by: By,
    job_id: int | None,
) -> Begun:
    lock_buckets(connection)  # if two replays begin together, the second waits and sees the first
    now = context.clock.now_ms()
    doubted = recognise(connection, witness, now).doubted
    if doubted is not None:
        raise HistoryDoubted(f"cannot replay: {doubted}. Run `drawdown recover`")
    context.witness = present(connection)
    rows = SQL.run(connection, "unfinished", {"since_ms": now - RESUME_MS}).all()
    for row in rows:
        at_work = row.lease_ms > now and row.from_ms < plan.asked_to_ms and plan.asked_from_ms < row.to_ms
        if at_work and overlaps(connection, ReplayScope.of(row.scope), plan.scope):
            raise ReplayAtWork(in_the_way(row))
    asked = (plan.scope.text(), plan.asked_from_ms, plan.asked_to_ms)
    same = [row for row in rows if (row.scope, row.from_ms, row.to_ms) == asked]
    if same:
        row = same[-1]
        if row.next_ms >= plan.to_ms:  # without this check, the rest of the range would count as done
            raise ReplayAhead(
                f"this replay has reached {utc(row.next_ms)}, and by the clock of this machine ({utc(now)}) later "
                "windows are not closed yet. Check that clock, and repeat the replay once they are closed"
            )
        taken = {"replay_id": row.replay_id, "worker": context.worker, "lease_ms": now + LEASE_MS, "job_id": job_id}
        SQL.run(connection, "take_over", taken)
        return Begun(row.replay_id, row.next_ms, row.pushes, resumed=True)
    return _new(connection, context, plan, by, job_id)


def _new(connection: sa.Connection, context: Context, plan: ReplayPlan, by: By, job_id: int | None) -> Begun:
    now = context.clock.now_ms()
    values = {
        "scope": plan.scope.text(),
        "from_ms": plan.asked_from_ms,
        "to_ms": plan.asked_to_ms,
        "next_ms": plan.from_ms,
        "worker": context.worker,
        "started_ms": now,
        "lease_ms": now + LEASE_MS,
        "actor": by.actor,
        "reason": by.reason,
        "job_id": job_id,
    }
    replay_id = int(SQL.run(connection, "begin", values).scalar_one())
    details = {"from_ms": plan.from_ms, "to_ms": plan.to_ms}
    record(connection, "replay", str(plan.scope), details, replace(by, now_ms=now))
    return Begun(replay_id, plan.from_ms, 0, resumed=False)


def _send_all(context: Context, result: Replayed) -> Steps[None]:
    """Send due pushes, as in a tick. The next tick sends the rest."""
    ready = context.ready()
    result.not_ready = sorted({tally.provider for tally in result.totals} - set(ready))
    results = yield RunTogether([_send(context, provider) for provider in ready])
    for sent in results:
        if isinstance(sent, Exception):
            result.failures.append(in_short(sent))


def _send(context: Context, provider: str) -> Steps[None]:
    yield from push(context, provider)
    yield from project(context, provider)


def rehearse(transact: Transact, context: Context, plan: ReplayPlan, by: By) -> Replayed:
    """Make a dry run of a replay, and return its result.

    The dry run yields only transactions.

    Errors: HistoryDoubted while a recovery is needed; those of the database.
    """
    steps = replay(context, plan, by, dry_run=True, most=SHOWN)
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            found: Replayed = stop.value
            return found
        assert isinstance(effect, Transaction), effect
        answer, failure = None, None
        try:
            answer = transact(effect.work, rollback=True)
        except Exception as error:  # the replay handles the error
            failure = error


LEFT: Final = ("left_pending", "left_exempt", "left_shadow", "left_quarantined")


@dataclass(frozen=True)
class FoundPush:
    """A push for usage of the range that was still owed.

    `price_micro`: micro-credits by the rate card; None without a rate. `shadow`: True if the push is sealed and never
    sent.
    """

    org_id: str
    window_ms: int
    feature: str
    revision: int
    quantity: int
    provider: str
    shadow: bool
    price_micro: int | None


@dataclass
class Tally:
    """The sum of an organisation's found pushes of a feature at a provider.

    `quantity`: base units. `price_micro`: micro-credits by the rate card (None: without a rate).
    """

    org_id: str
    provider: str
    feature: str
    pushes: int = 0
    quantity: int = 0
    price_micro: int | None = 0

    @classmethod
    def of(cls, push: FoundPush) -> Tally:
        return cls(push.org_id, push.provider, push.feature)

    def add(self, push: FoundPush) -> None:
        self.pushes += 1
        self.quantity += push.quantity
        self.price_micro = add(self.price_micro, push.price_micro)


@dataclass
class SkippedUsage:
    """Usage in the range that did not become a push.

    `why`: the reason. `windows`: the number of windows of organisations; if `unit` is `samples`, the number of samples.
    `quantity`: the amount in `unit`.
    """

    why: str
    unit: str
    windows: int = 0
    quantity: int = 0

    def add(self, other: SkippedUsage) -> None:
        self.windows += other.windows
        self.quantity += other.quantity


def found_in(connection: sa.Connection, seal_id: int, start: int) -> list[FoundPush]:
    """Return the pushes that a seal made for windows from `start` on."""
    card = rate_card(connection)
    rows = SQL.run(connection, "found", {"seal_id": seal_id, "start_ms": start})
    return [
        FoundPush(
            row.org_id,
            row.window_ms,
            row.feature,
            row.revision,
            row.sealed_qty,
            row.provider,
            row.state == "shadow",
            card.price(row.feature, row.window_ms, row.sealed_qty),
        )
        for row in rows
    ]


def left_in(connection: sa.Connection, plan: ReplayPlan, start: int, end: int, seal_id: int) -> Sequence[SkippedUsage]:
    """Return usage in [start, end) that is not billed, by reason.

    Such usage is pending, exempt, in shadow, quarantined, or belongs to a stopped organisation.
    """
    values: dict[str, object] = {"start_ms": start, "end_ms": end, "seal_id": seal_id}
    only = ""
    if plan.orgs is not None:
        only = "only_of_these"
        values["orgs"] = [{"org_id": org_id} for org_id in plan.orgs]
    names = [*LEFT, *(["left_stopped"] if plan.stopped else [])]
    return [
        SkippedUsage(row.reason, row.unit, int(row.windows), int(row.quantity))
        for name in names
        for row in SQL.run(connection, name, values, only=only)
    ]


def still_open(connection: sa.Connection, plan: ReplayPlan) -> tuple[int, int]:
    """Return the number and quantity of open pushes in the planned windows."""
    values: dict[str, object] = {"start_ms": plan.from_ms, "end_ms": plan.to_ms}
    only = biller = ""
    if plan.orgs is not None:
        only = "only_of_these"
        values["orgs"] = [{"org_id": org_id} for org_id in plan.orgs]
    if plan.scope.provider is not None:
        biller = "of_this_biller"
        values["provider"] = plan.scope.provider
    found = SQL.run(connection, "still_open", values, only=only, biller=biller).one()
    return int(found.pushes), int(found.quantity)
