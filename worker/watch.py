"""Run the watch, which acts between ticks.

The watch halts an organisation without credit within seconds, and resumes an organisation that paid. The same round
fills low wallets, and delivers messages to the operator's product.

Guarantee: the watch does not seal, send or bill usage. An estimate decides which balances to read at their provider.
The fresh balance, minus use that it does not show, decides about a halt (`project`). If the provider cannot be read,
the plan's policy decides. The halts go to the cells in the same round. The result does not depend on this process's
memory. Several watches, or a restarted watch, have the same result, because they use the same locks and leases.

Tests: tests/integration/test_watch.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Capabilities
from drawdown.schema.sql import queries
from drawdown.schema.text import in_short
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import LoadWitness, RunTogether, Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.halts.dispatch import Dispatched, dispatch
from drawdown.worker.history.incarnation import recognise
from drawdown.worker.hooks.deliver import Deliveries, deliver
from drawdown.worker.seal.arrivals import ArrivalCursor, seen_by_all, seen_now
from drawdown.worker.topup.fill import Filled, fill
from drawdown.worker.verdict.costs import learn_costs
from drawdown.worker.verdict.effective_balance import HOST_CLOCK_APART_MS, read_used, since_read
from drawdown.worker.verdict.holds import expire_holds
from drawdown.worker.verdict.project import Projected, project
from drawdown.worker.verdict.refresh_requests import READS_A_S, mark_for_projection
from drawdown.worker.verdict.rules import LAST_LOOK_MS, end_ms, next_look_ms
from drawdown.worker.verdict.watch_state import note_round, was_watched

log = structlog.get_logger()
SQL = queries(__file__)

ROUND_MS: Final = 5 * SECOND_MS
"""Longest time of each part of a round of the watch, in milliseconds.

A part is, for example, one provider.
"""
LOOKS_A_ROUND: Final = 5_000
"""Organisations of one provider that a round of the watch estimates."""
COSTS_MS: Final = 5 * MINUTE_MS
"""Interval between a watch's reads of the costs of units, in milliseconds.

Each tick reads the costs, too.
"""
HALTED_SHARE: Final = 4
"""One in this number of reads of a round is for halted organisations.

The other reads are for organisations with credit that may end.
"""


BEGUN_FOR_MS: Final = MINUTE_MS
"""Maximum age of a new sandbox that makes its organisation due, in milliseconds.

The limit is this long because hosts may write the sandbox's row late.
"""

Begun: TypeAlias = Mapping[str, tuple[int, int]]
"""The new sandboxes of each organisation.

They are given as their number, and the start of the newest sandbox in milliseconds.
"""


@dataclass
class Watched:
    """The counts of one round of the watch.

    `estimates`: estimated organisations. `refresh_requests`: requested reads. `read`: customers that were read.
    `failed`: failed reads and unwritten verdicts. `wrong_estimates`: halts on an estimate that a read proved wrong.
    `failures`: the errors of failed steps and of unwritten verdicts. The other fields are numbers of organisations,
    halts, top-ups and messages.
    """

    estimates: int = 0
    refresh_requests: int = 0
    read: int = 0
    failed: int = 0
    halted: int = 0
    resumed: int = 0
    wrong_estimates: int = 0
    halts_acknowledged: int = 0
    halts_failed: int = 0
    topped_up: int = 0
    charges_declined: int = 0
    messages_delivered: int = 0
    messages_failed: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass
class Looked:
    """The result of the first step of a round, which estimates balances.

    `arrivals`: the position up to which it has read arrivals. `begun`: the organisations that new sandboxes made due.
    `doubted`: True if the history is in doubt. `estimates`: the number of estimates. `refresh_requests`: the number of
    requested reads.
    """

    arrivals: ArrivalCursor
    begun: Begun
    doubted: bool
    estimates: int = 0
    refresh_requests: int = 0


@dataclass
class Watcher:
    """The memory of a watch, which only makes the watch faster."""

    once: bool = False
    """True for a single round, which must not be recorded as a running watch."""
    arrivals: ArrivalCursor | None = None
    """The position after the last read arrival (None: begin where the seal has read)."""
    costs_due_ms: int = 0
    """The time of the next read of the costs of units, in milliseconds."""
    begun: Begun = field(default_factory=dict)
    """Organisations that new sandboxes have made due.

    Each new sandbox makes its organisation due once. Otherwise the watch would estimate a busy organisation in each
    round.
    """


def watch(context: Context, watcher: Watcher) -> Steps[Watched]:
    """Run one round of the watch.

    A round estimates balances, reads balances at providers, halts or resumes organisations, and sends halts to cells.

    Errors: UsageError if the local checkpoint cannot be read. DatabaseBusy or DatabaseNotReady if the database fails.
    """
    done = Watched()
    context.hurried = True
    witness: Witness | None = yield LoadWitness()
    yield from expire_holds(context, sweeps=1)
    look = partial(_look, context=context, watcher=watcher, witness=witness)
    seen: Looked = yield Transaction("watch", look)
    watcher.arrivals, watcher.begun, done.estimates, done.refresh_requests = (
        seen.arrivals,
        seen.begun,
        seen.estimates,
        seen.refresh_requests,
    )
    lanes = [_lane(context, provider) for provider in context.ready()]
    filling = [] if seen.doubted else [fill(replace(context.within(ROUND_MS), witness=witness))]
    lanes = yield RunTogether([*lanes, *filling, *_costs(context, watcher)])
    # Send halts of organisations without a provider here, and messages to the operator's product.
    others = yield RunTogether([dispatch(context.within(ROUND_MS)), deliver(context.within(ROUND_MS))])
    for lane in [*lanes, others]:
        for result in lane if isinstance(lane, list) else [lane]:
            _collect(done, result)
    if done.halted or done.resumed or done.halts_failed or done.failures:
        log.info("watched", **{name: value for name, value in vars(done).items() if value})
    return done


def _costs(context: Context, watcher: Watcher) -> list[Steps[None]]:
    """Return the steps that read the costs of units, if they are due.

    These steps run concurrently with the halts, so that a provider that does not respond does not delay others.
    """
    if context.clock.now_ms() < watcher.costs_due_ms:
        return []
    watcher.costs_due_ms = context.clock.now_ms() + COSTS_MS
    return [learn_costs(context, provider) for provider in context.ready()]


def _lane(context: Context, provider: str) -> Steps[list[object]]:
    """Project a provider's verdicts, and send its halts, each for at most ROUND_MS.

    If a provider or a cell answers slowly, the next round does the rest.
    """
    projected = yield from project(context.within(ROUND_MS), provider)
    dispatched = yield from dispatch(context.within(ROUND_MS), provider)
    return [projected, dispatched]


def _collect(done: Watched, result: object) -> None:
    match result:
        case Projected():
            done.read += result.read
            done.failed += result.failed
            done.halted += result.halted
            done.resumed += result.resumed
            done.wrong_estimates += result.wrong_estimates
            done.failures += result.unwritten
        case Filled():
            done.topped_up += result.credited
            done.charges_declined += result.declined
        case Dispatched():
            done.halts_acknowledged += result.acknowledged
            done.halts_failed += result.failed
        case Deliveries():
            done.messages_delivered += result.delivered
            done.messages_failed += result.failed
        case Exception():
            log.error("watch_failed", error=in_short(result))
            done.failures.append(in_short(result))
        case None:
            pass  # the result of `_costs`
        case _:
            raise AssertionError(f"an unexpected result: {result!r}")


def _look(connection: sa.Connection, *, context: Context, watcher: Watcher, witness: Witness | None) -> Looked:
    now = context.clock.now_ms()
    doubted = recognise(connection, witness, now).doubted is not None
    seen = _wake(connection, watcher, context.shard, now)
    done = Looked(seen, _wake_begun(connection, watcher, context.shard, now), doubted)
    for provider in context.ready():
        reads = reads_a_round(context.capabilities[provider])
        wanted = [] if doubted else _look_at(connection, context, provider, now, done, reads)
        values = {**_billed_by(context, provider, now), "at_most": max(reads // HALTED_SHARE, 1)}
        halted = SQL.run(connection, "halted", values).scalars().all()
        mark_for_projection(connection, [*wanted, *halted], now)
        done.refresh_requests += len(wanted) + len(halted)
    # A single round (--once) is not a watch. It counts only if a watch made a round within a day, such as before a
    # restart.
    if not watcher.once or was_watched(connection, now):
        note_round(connection, now)  # call it last, because watches of other shards wait for this row
    return done


def _billed_by(context: Context, provider: str, now_ms: int) -> dict[str, object]:
    return {"provider": provider, "now_ms": now_ms, "lo": context.shard.lo, "hi": context.shard.hi}


def reads_a_round(capabilities: Capabilities) -> int:
    """Return the number of running customers that one round may request to read.

    The number is half of the provider's limit for ROUND_MS. A round may also request one halted customer for each
    HALTED_SHARE customers of this number.
    """
    a_second = capabilities.reads_per_s if capabilities.reads_per_s is not None else READS_A_S
    return max(int(a_second * ROUND_MS / SECOND_MS / 2), 1) * capabilities.reads_a_call


def _wake(connection: sa.Connection, watcher: Watcher, shard: Shard, now: int) -> ArrivalCursor:
    values = {"lo": shard.lo, "hi": shard.hi}
    seen = watcher.arrivals or seen_by_all(SQL.run(connection, "arrivals_sealed", values).all())
    # Read the position before the scan, so that no later scan misses a commit. It may read some commits twice.
    following = seen_now(connection)
    SQL.run(connection, "wake", {**values, **seen.values, "now_ms": now}, later=seen.piece)
    return following


def _wake_begun(connection: sa.Connection, watcher: Watcher, shard: Shard, now: int) -> Begun:
    """Make organisations with new sandboxes due at once.

    Such organisations use more from now on. Return the organisations that this call or an earlier call made due, with
    their new sandboxes.
    """
    times = {"from_ms": now - BEGUN_FOR_MS - HOST_CLOCK_APART_MS, "to_ms": now + HOST_CLOCK_APART_MS}
    begun = {row.org_id: (int(row.sandboxes), int(row.since_ms)) for row in SQL.run(connection, "begun", times)}
    known = {org_id: newest for org_id, newest in begun.items() if watcher.begun.get(org_id) == newest}
    fresh = [{"org_id": org_id} for org_id in sorted(begun.keys() - known.keys())]
    if not fresh:
        return known
    values = {"orgs": fresh, "lo": shard.lo, "hi": shard.hi, "now_ms": now}
    woken = SQL.run(connection, "wake_begun", values).scalars().all()
    return {**known, **{str(org_id): begun[org_id] for org_id in woken}}


def _look_at(
    connection: sa.Connection, context: Context, provider: str, now: int, done: Looked, at_most: int
) -> list[str]:
    """Estimate the credit of due organisations.

    Return the organisations to read at their provider, at most `at_most`. The estimate shows that these organisations
    have no credit left, or Drawdown has never read their balance.
    """
    rows = SQL.run(connection, "due", {**_billed_by(context, provider, now), "at_most": LOOKS_A_ROUND}).all()
    lag = context.capabilities[provider].balance_lag_ms
    used = read_used(connection, provider, rows, now_ms=now, read_ms=now, lag_ms=lag)
    wanted: list[str] = []
    looks = []
    for org in rows:
        found = since_read(org, used[org.org_id])
        effective = None if found is None else found.value
        gone = org.balance_read_ms is None or (effective is not None and effective <= 0)
        if gone and org.projection_due_ms is None:
            if len(wanted) == at_most:
                continue  # the organisation stays due, and the next round begins with it
            wanted.append(org.org_id)
        # An org override decides, even if a read differs.
        soon = ROUND_MS if org.override_halted is None else LAST_LOOK_MS
        burn = used[org.org_id].burn_a_minute
        look_ms = now + soon if gone else next_look_ms(effective, burn, now)
        looks.append({"org_id": org.org_id, "watch_due_ms": look_ms, "runs_out_ms": end_ms(effective, burn, now)})
    if looks:
        SQL.run(connection, "looked", looks)
    done.estimates += len(looks)
    return wanted
