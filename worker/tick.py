"""Run one tick for all providers concurrently.

A tick seals, and then pushes, projects and dispatches. After that, it fills wallets, delivers messages to the
operator's product, does queued jobs, and takes files of watched folders.

Guarantee: if a step fails, the steps before it stay committed, and the next tick continues with the failed step. A bad
organisation (S8) or provider does not delay others. Each tick writes a row with its work and the remaining backlog.

Tests: tests/integration/test_tick.py
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from drawdown.schema.errors import LockHeld
from drawdown.schema.sql import NOTHING, Values, queries
from drawdown.schema.text import in_short
from drawdown.schema.units import DAY_MS, WINDOW_MS, horizon
from drawdown.worker.catalog.terms import changed, stored_terms, take_new_terms
from drawdown.worker.engine.clock_check import database_now, doubt_the_clock, last_doubted_clock
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import LoadWitness, RunTogether, SaveWitness, Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.halts.dispatch import dispatch
from drawdown.worker.halts.ignored_halts import NAMED, ignored_halts, problems, undelivered, untold
from drawdown.worker.history.incarnation import recognise
from drawdown.worker.hooks.deliver import deliver
from drawdown.worker.push.confirm import Confirmed, confirm
from drawdown.worker.push.push import push_in_spells
from drawdown.worker.push.void import bill_again
from drawdown.worker.seal import seal as sealing
from drawdown.worker.seal.seal import Sealed, SealRequest, find_bad, register_unknown_orgs_by_arrival
from drawdown.worker.seal.stops import stop_org
from drawdown.worker.status.backlog import read_backlog
from drawdown.worker.status.ticks import Report, add_lanes, collect
from drawdown.worker.topup.fill import fill
from drawdown.worker.verdict.costs import learn_costs
from drawdown.worker.verdict.holds import expire_holds, shrink_holds
from drawdown.worker.verdict.org_row import end_overrides, resume_exempt
from drawdown.worker.verdict.project import project
from drawdown.worker.verdict.refresh_requests import mark_halted

log = structlog.get_logger()
SQL = queries(__file__)


def tick(context: Context) -> Steps[Report]:
    """Run one tick for one shard, and return its report.

    Errors: ClockDoubted (S9) before the seal. HistoryDoubted if the database was restored during the tick (R1).
    UsageError if the local checkpoint cannot be read or written. DatabaseBusy or DatabaseNotReady if the database
    fails.
    """
    context.began_ms = context.clock.now_ms()
    witness: Witness | None = yield LoadWitness()
    report: Report = yield Transaction("begin_tick", partial(_begin, context=context, witness=witness))
    recalled: Witness | None = yield LoadWitness()
    if recalled != witness and report.doubted is None:
        # This process may have paused after it read the checkpoint, and the database may have been restored meanwhile.
        report.doubted = yield Transaction("recognise", partial(_recognise, context=context, witness=recalled))
    log.info("tick_started", tick=report.tick_id, worker=context.worker, horizon_ms=report.horizon_ms)
    if report.doubted is None:
        assert context.witness is not None
        yield SaveWitness(context.witness)
        yield RunTogether([bill_again(context)])
        yield from _seal_all(context, report)
        yield from _sweep(context, report)
    else:
        log.error("history_doubted", reason=report.doubted)
    yield from expire_holds(context)
    settling = report.doubted is None
    ready = context.ready()
    results = yield RunTogether([_lane(context, provider, settling=settling) for provider in ready])
    collect(report, results)
    add_lanes(report, context, dict(zip(ready, results, strict=True)))
    yield from shrink_holds(context)
    # Send halts of organisations without a provider here, and fill wallets that the new pushes made low.
    others = yield RunTogether([dispatch(context), _fill_and_tell(context, settling=settling)])
    collect(report, others)
    if settling:
        yield from _then(context, report)
    report = yield Transaction("end_tick", partial(_end, context=context, report=report))
    log.info(
        "tick_finished",
        tick=report.tick_id,
        sealed=report.sealed,
        accepted=report.accepted,
        left=asdict(report.left),
        exit_status=report.exit_status,
    )
    return report


def _lane(context: Context, provider: str, *, settling: bool) -> Steps[list[object]]:
    """Do the steps of one provider: push, project and dispatch.

    Halts come last, because the provider's new verdict may end a due halt. While history is in doubt (R1), verdicts and
    halts continue, and pushes are not settled.
    """
    if not settling:
        return (yield from _verdicts(context, provider))
    yield from learn_costs(context, provider)
    # Lookups can be slow because of rate limits, so they run concurrently and do not delay pushes, verdicts or halts.
    sent = push_in_spells(context, provider, partial(_verdicts, context, provider))
    done: list[object] = yield RunTogether([confirm(context, provider), sent])
    if isinstance(done[0], Confirmed) and done[0].lookups:
        done += yield from _verdicts(context, provider)
    return done


def _fill_and_tell(context: Context, *, settling: bool) -> Steps[list[object]]:
    """Fill wallets, and then deliver messages to the operator's product.

    The messages include those about this tick. While history is in doubt, messages are still delivered, because a
    repeated message has the same id.
    """
    filled: list[object] = (yield RunTogether([_fill(context)])) if settling else []
    return [*filled, (yield from deliver(context))]


def _fill(context: Context) -> Steps[list[object]]:
    """Fill wallets.

    After a credit, refresh verdicts at once, so that a halted customer who paid is resumed.
    """
    filled = yield from fill(context)
    if not filled.credited:
        return [filled]
    verdicts: list[object] = yield RunTogether([_verdicts(context, provider) for provider in context.ready()])
    return [filled, *verdicts]


def _then(context: Context, report: Report) -> Steps[None]:
    """Do queued jobs, and then take files.

    Files come last, so that a slow or bad file does not delay other steps.
    """
    if report.jobs_wait:
        yield from _do_jobs(context, report)
    if report.batches_wait:
        from drawdown.worker.batches.folders import take_watched  # imported here, because most ticks do not read files

        collect(report, (yield RunTogether([take_watched(context)])))


def _do_jobs(context: Context, report: Report) -> Steps[None]:
    from drawdown.worker.jobs.run_jobs import JobsDone, do_jobs  # imported here, because most ticks do not do jobs

    results = yield RunTogether([do_jobs(context)])
    match results:
        case [JobsDone() as done]:
            report.jobs_ended, report.problems = done.ended, report.problems + done.failures
        case _:
            collect(report, results)


def _verdicts(context: Context, provider: str, more: bool = False) -> Steps[list[object]]:
    """Project a provider's verdicts, and send its halts.

    `more`: True while a backlog is being sent. The function then also sends halts of organisations without a provider
    here, so that these halts do not wait for the backlog.
    """
    projected = yield from project(context, provider)
    return [projected, (yield from dispatch(context, "" if more else provider))]


def _begin(connection: sa.Connection, *, context: Context, witness: Witness | None) -> Report:
    now = context.clock.now_ms()
    server_now = database_now(connection, now)
    previous = last_doubted_clock(connection)
    incarnation = recognise(connection, witness, now)
    if not (context.clock.trusted or context.accept_clock or incarnation.doubted):
        doubt_the_clock(now, server_now, previous)
    if incarnation.doubted is None:
        take_new_terms(connection, context.declared())
    context.changed = changed(connection, context.declared())
    began_ms = SQL.run(connection, "last_started").scalar_one_or_none()
    _bring_providers_up_to_date(connection, began_ms, now)
    if context.shard.lo == 0:
        began_first_ms = SQL.run(connection, "last_of_first_shard").scalar_one_or_none()
        if began_first_ms is None or began_first_ms // DAY_MS < now // DAY_MS:
            from drawdown.worker.sources.events.types import free_unused  # once a day

            free_unused(connection, now)
    for provider in context.ready():
        mark_halted(connection, provider, context.capabilities[provider], context.shard, now)
    resume_exempt(connection, context.shard, now)
    end_overrides(connection, context.shard, now)
    shard = {"lo": context.shard.lo, "hi": context.shard.hi}
    values = {**shard, "worker": context.worker, "started_ms": now, "clock_trusted": context.clock.trusted}
    tick_id = int(SQL.run(connection, "begin_tick", values).scalar_one())
    context.witness = Witness(incarnation.database_id, incarnation.number, incarnation.sends, tick_id, context.worker)
    return Report(
        tick_id=tick_id,
        at_ms=now,
        horizon_ms=horizon(min(now, server_now)),
        doubted=incarnation.doubted,
        problems=_unusable(connection, context),
        jobs_wait=_any(connection, "jobs_wait"),
        batches_wait=context.shard.lo == 0 and _any(connection, "folders_watched"),
    )


def _any(connection: sa.Connection, name: str, values: Values = NOTHING) -> bool:
    return SQL.run(connection, name, values).first() is not None


def _recognise(connection: sa.Connection, *, context: Context, witness: Witness | None) -> str | None:
    return recognise(connection, witness, context.clock.now_ms()).doubted


def _unusable(connection: sa.Connection, context: Context) -> list[str]:
    """Return texts about assigned providers that cannot be used.

    A person must fix such a provider.
    """
    reasons = {**context.broken, **context.changed}
    reasons |= {
        name: f"{why}. Drawdown does not send pushes to it"
        for name, why in context.dormant.items()
        if name not in reasons and _any(connection, "usage_waits", {"provider": name})
    }
    missing = set(stored_terms(connection)) - set(context.capabilities) - set(reasons)
    reasons |= dict.fromkeys(missing, "its package is not installed on this machine")
    return [
        f"{name}: {reason}"
        for name, reason in sorted(reasons.items())
        if _any(connection, "is_assigned", {"provider": name})
    ]


def _bring_providers_up_to_date(connection: sa.Connection, since: int | None, now: int) -> None:
    """Set `orgs.billing_provider`, and refresh changed organisations.

    The value is the provider of the assignment in force. A halted organisation does not have usage that would cause a
    refresh, so this function requests the refresh. The function checks all assignments in force, even old assignments.
    The clock of an earlier tick may have been wrong, or an assignment may be recorded after its start.
    """
    since_ms = 0 if since is None else min(since, now) - WINDOW_MS
    SQL.run(connection, "bring_providers_up_to_date", {"now_ms": now, "since_ms": since_ms})


def _request(context: Context, report: Report, shard: Shard) -> SealRequest:
    return SealRequest(
        shard=shard,
        horizon_ms=report.horizon_ms,
        now_ms=context.clock.now_ms(),
        providers=context.declared(),
        new_orgs=context.new_orgs,
        witness=context.witness,
    )


def _seal_all(context: Context, report: Report) -> Steps[None]:
    """Seal the shard in one transaction.

    If the transaction fails, halve the shard until the bad organisation is isolated (S8).
    """
    queue = [context.shard]
    while queue:
        shard = queue.pop()
        if shard != context.shard and context.out_of_time():
            report.failures.append(f"the tick ran out of time before it sealed buckets {shard.lo} to {shard.hi}")
            continue
        request = _request(context, report, shard)
        try:
            sealed: Sealed = yield Transaction("seal", partial(sealing.seal, request=request))
        except LockHeld as error:  # verdicts and halts do not need the lock for which the seal waits
            log.error("seal_waited", bucket_lo=shard.lo, bucket_hi=shard.hi, error=str(error))
            report.failures.append(f"the tick could not seal buckets {shard.lo} to {shard.hi}: {error}")
            continue
        except DBAPIError as error:  # a busy, unreachable or unready database raises other errors
            log.error("seal_failed", bucket_lo=shard.lo, bucket_hi=shard.hi, error=in_short(error))
            if shard.lo < shard.hi:
                middle = (shard.lo + shard.hi) // 2
                queue += [Shard(middle + 1, shard.hi), Shard(shard.lo, middle)]
            elif (yield from _stop_bad_orgs(context, report, request)):
                queue.append(shard)
            else:
                report.failures.append(f"the tick could not seal bucket {shard.lo}: {in_short(error)}")
            continue
        report.sealed += sealed.pushes
        context.advanced("sealed", sealed.pushes)
        if sealed.restored:
            log.error(
                "database_restored",
                detail="the arrival cursor exceeded the database's counter. The tick reads all arrivals again",
            )
        log.info("sealed", bucket_lo=shard.lo, bucket_hi=shard.hi, pushes=sealed.pushes, seal=sealed.seal_id)


def _stop_bad_orgs(context: Context, report: Report, request: SealRequest) -> Steps[bool]:
    """Stop the organisations of one bucket that cannot be sealed, and no others.

    Return True if the function stopped an organisation.
    """
    orgs: list[str] = yield Transaction("orgs_of_bucket", partial(_orgs_of, request=request))
    bad = yield from find_bad(orgs, lambda only: partial(sealing.seal, request=replace(request, only=only)))
    for org in bad:
        work = partial(stop_org, org_id=org.org_id, reason=org.reason, now_ms=request.now_ms, actor="drawdown")
        yield Transaction("stop_org", work)
        log.error("org_stopped", org=org.org_id, reason=org.reason)
        report.stopped_orgs.append(org.org_id)
    return bool(bad)


def _orgs_of(connection: sa.Connection, *, request: SealRequest) -> list[str]:
    """Return the organisations of the shard, any of which may prevent the seal.

    They include organisations that only samples name.
    """
    register_unknown_orgs_by_arrival(connection, request)
    registered = SQL.run(connection, "orgs_of_buckets", {"lo": request.shard.lo, "hi": request.shard.hi})
    return [str(org_id) for org_id in registered.scalars()]


def _sweep(context: Context, report: Report) -> Steps[None]:
    """Do a part of the nightly sweep, which finds missed arrivals (S2).

    If the sweep fails, the next tick repeats it.
    """
    if context.out_of_time():
        return
    try:
        request = _request(context, report, context.shard)
        swept: Sealed | None = yield Transaction("sweep", partial(sealing.sweep, request=request))
    except (DBAPIError, LockHeld) as error:
        log.error("sweep_failed", error=in_short(error))
        report.failures.append(f"sweep: {in_short(error)}")
        return
    if swept is not None and swept.pushes:
        log.error("sweep_found_usage", pushes=swept.pushes, detail="the arrival cursor had missed this usage")
        report.swept = swept.pushes


def _end(connection: sa.Connection, *, context: Context, report: Report) -> Report:
    left = read_backlog(connection, context.shard, report.at_ms)
    stuck = [str(one) for one in undelivered(connection, context.shard) if one.needs_person]
    needed = [*report.problems, *stuck[:NAMED], *problems(ignored_halts(connection, context.shard))]
    needed += untold(connection, context.shard)
    wait = report.jobs_wait and _any(connection, "jobs_wait")
    # Make a new report, because a conflict repeats this transaction.
    report = replace(report, left=left, problems=needed, jobs_wait=wait)
    ended = {"finished_ms": context.clock.now_ms(), "exit_status": report.exit_status}
    values = {"tick_id": report.tick_id, "worker": context.worker, **ended}
    SQL.run(connection, "end_tick", {**values, "report": json.dumps(asdict(report), sort_keys=True)})
    return report
