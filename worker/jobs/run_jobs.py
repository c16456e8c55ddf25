"""Do waiting jobs in a tick: replays, assignments, terms, corrections, top-ups.

Guarantee: a tick does at most MAX_A_TICK jobs, for at most TURN_MS, and leaves the rest to the next tick. Only one tick
reports the result of a job. Each kind of job is idempotent, so if a tick dies, the next tick does its job again:

- A replay subtracts what is sealed.
- Voided pushes are no longer open, and terms in force are not accepted again.
- An assignment that is in force is not made again.
- Corrected usage is sealed again, and is compared only once its pushes are settled.
- A top-up charges only a wallet that is low and does not have an open charge.

If a person has changed the same object since, the person's decision stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import show_quantity
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import CLOCKS_APART_MS, Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import AcceptJob, AssignJob, CorrectJob, TopupJob
from drawdown.worker.jobs.queue import TURN_MS, ClaimedJob, State
from drawdown.worker.orgs import flips
from drawdown.worker.orgs.assignments import joined, lock_for_assignments
from drawdown.worker.orgs.flips import Flip, FlipOptions, Wish
from drawdown.worker.provider import actions as providers
from drawdown.worker.reconcile.reconcile import Line, Reconciled, ReconcileScope, reconcile
from drawdown.worker.replay.plan import ReplayAhead, ReplayAtWork
from drawdown.worker.replay.replay import Replayed, replay
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.actions import Terms, TermsChange, require_only_one
from drawdown.worker.topup.fill import Filled, fill

log = structlog.get_logger()

MAX_A_TICK: Final = 4
"""Most jobs that one tick runs."""
SAID: Final = 5
"""Lines of each kind in the result of a replay job.

`drawdown replay` shows all lines.
"""


@dataclass
class JobsDone:
    """The number of jobs that this tick ended, and a text about each failed job."""

    ended: int = 0
    failures: list[str] = field(default_factory=list)


def do_jobs(context: Context) -> Steps[JobsDone]:
    """Do up to MAX_A_TICK open jobs, the oldest first.

    The turn ends early after TURN_MS, if another tick has the oldest job, or if a job must continue in a later tick.

    Errors: those of a job. Another tick can take that job after its lease has expired.
    """
    done, turn = JobsDone(), _turn(context)
    for _ in range(MAX_A_TICK):
        if turn.out_of_time():
            break
        # If two ticks run at the same time, one gets the job, and the other does not do jobs.
        take = partial(queue.take, worker=turn.worker, now_ms=turn.clock.now_ms())
        taken: ClaimedJob | None = yield Transaction("take_job", take)
        if taken is None or not (yield from _do(turn, taken, done)):
            break
    return done


def _turn(context: Context) -> Context:
    """Return the context of a turn, which includes the organisations of all shards."""
    now = context.clock.now_ms()
    return replace(context.within(TURN_MS), shard=Shard(), began_ms=now, progress=None)


def _do(turn: Context, taken: ClaimedJob, done: JobsDone) -> Steps[bool]:
    """Do one job; return True if it has ended, so that the next job can begin."""
    if taken.failed:
        _note(done, taken, "failed", taken.failed)
        return True
    came = yield from _come(turn, taken)
    if came.state is None:
        yield Transaction("put_job_back", partial(_back, turn=turn, taken=taken, came=came))
        return False
    said: str | None = yield Transaction("end_job", partial(_end, turn=turn, taken=taken, came=came))
    if said is not None:
        _note(done, taken, came.state, said)
    return True


def _come(turn: Context, taken: ClaimedJob) -> Steps[Turn]:
    by = replace(taken.by, now_ms=turn.clock.now_ms())
    match taken.payload:
        case AcceptJob() as accepted:
            return (yield from accept(turn, accepted, by))
        case AssignJob() as assigned:
            return (yield from assign(turn, assigned, by))
        case TopupJob() as topped:
            return (yield from top_up(turn, topped, by))
        case CorrectJob() as compared:
            return (yield from correct(turn, compared, by))
    if taken.plan is None:
        behind_ms = taken.queued_ms - taken.by.now_ms
        said = (
            f"the job was queued at {utc(taken.queued_ms)}, but the clock of {turn.worker} shows "
            f"{utc(taken.by.now_ms)}, so windows of its range are not closed yet. Check both clocks"
        )
        return Turn(None, said, in_vain=behind_ms > CLOCKS_APART_MS)
    try:
        found = yield from replay(turn, taken.plan, by, dry_run=False, most=0, job_id=taken.job_id)
    except ReplayAtWork as error:  # another process replays some of these windows; a later turn seals the rest
        return Turn(None, str(error))
    except ReplayAhead as error:
        return Turn(None, str(error), in_vain=True)
    return Turn(None if found.unfinished else "failed" if found.stopped else "done", replayed=found)


def _note(done: JobsDone, taken: ClaimedJob, state: str, said: str) -> None:
    done.ended += 1
    if state == "failed":
        done.failures.append(f"job {taken.job_id} failed: {said}")
    log.info("job_ended", job=taken.job_id, state=state, said=said, actor=taken.by.actor)


def _back(connection: sa.Connection, *, turn: Context, taken: ClaimedJob, came: Turn) -> bool:
    return queue.put_back(connection, taken.job_id, turn.worker, came.detail, in_vain=came.in_vain)


def _end(connection: sa.Connection, *, turn: Context, taken: ClaimedJob, came: Turn) -> str | None:
    """End a job, and return the text about it; None if another tick has it."""
    assert came.state is not None
    said = came.detail
    if came.replayed is not None:
        said = in_words(queue.sealed(connection, taken.job_id), came.replayed)
    over = queue.end(connection, taken.job_id, turn.worker, came.state, said, turn.clock.now_ms())
    return said if over else None


def in_words(pushes: int, found: Replayed) -> str:
    """Return a text about the result of a replay.

    `pushes`: the number of pushes that all turns of the job sealed.
    """
    none = "nothing more to seal" if found.to_settle else "another push was not needed"
    said = [f"sealed {counted(pushes, 'push', 'pushes')}" if pushes else none]
    said += [found.to_settle] if found.to_settle else []
    said += [f"skipped {bad.org_id}: {bad.reason}" for bad in found.stopped[:SAID]]
    said += _some([f"Drawdown cannot send to {name} now" for name in found.not_ready])
    said += _some([f"{one.why}: {one.quantity:,} {one.unit}" for one in found.left_out])
    return "; ".join(said)


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:SAID], *([f"and {len(lines) - SAID:,} more"] if len(lines) > SAID else [])]


@dataclass(frozen=True)
class Turn:
    """The result of a tick's turn at a job.

    `state`: None if the next tick continues the job. `in_vain`: True if this turn did not make progress. `replayed`:
    the result of a replay, from which the final text is made (None: another kind of job).
    """

    state: State | None
    detail: str = ""
    in_vain: bool = False
    replayed: Replayed | None = None


def accept(context: Context, asked: AcceptJob, by: By) -> Steps[Turn]:
    """Accept a provider's terms if they are those that the person saw.

    The job voids unsent pushes in portions, as `drawdown provider accept` does.
    """
    declared = context.declared().get(asked.provider)
    if declared is None:
        return cannot_be_used(asked.provider)
    if providers.terms_of(declared) != asked.terms:
        return Turn("failed", f"the tick's settings of {asked.provider} differ from those that were accepted")
    voided = 0
    while not context.out_of_time():
        work = partial(_portion, asked=asked, declared=declared, by=by, before=voided)
        try:
            some: providers.Portion | None = yield Transaction("accept_terms", work)
        except Refused as error:
            rest = f"; {providers.half_way(asked.provider, voided)}" if voided else ""
            return Turn("failed", f"{error}{rest}")
        if some is None or not some.pushes_left:
            done = "unsent pushes with the old settings are sealed again"
            return Turn("done", f"the new settings of {asked.provider} are in force; {done}")
        voided += some.voided
    return Turn(None)


def _portion(
    connection: sa.Connection, *, asked: AcceptJob, declared: Capabilities, by: By, before: int
) -> providers.Portion | None:
    """Void a portion of unsent pushes, and accept the terms with the last portion.

    Return None if the terms are already in force, because a person accepted them, or a tick accepted them and then
    died.
    """
    lock_buckets(connection)
    if providers.terms_in_force(connection, asked.provider) == asked.terms:
        return None
    return providers.accept_some(connection, asked.provider, declared, by, before=before)


def assign(context: Context, asked: AssignJob, by: By) -> Steps[Turn]:
    """Assign an organisation after its provider has confirmed the customer."""
    if asked.provider not in context.ready():
        return cannot_be_used(asked.provider)
    options = FlipOptions(asked.provider, asked.from_ms, allow_halt=asked.allow_halt, each_alone=True, new=asked.new)
    wish, first = Wish(asked.org_id, asked.customer_id), partial(_hold, asked=asked, by=by)
    try:
        flipped: list[Flip] = yield from flips.flip(context, [wish], options, by, first)
    except Refused as error:
        return Turn("failed", str(error))
    return _flip_in_words(flipped[0], asked.provider)


def _hold(connection: sa.Connection, *, asked: AssignJob, by: By) -> None:
    """Lock an organisation's assignments as the job found them.

    Errors: Refused if a person has changed them since.
    """
    lock_for_assignments(connection, [asked.org_id])
    queue.require_as_it_stood(connection, asked, by)


def cannot_be_used(provider: str) -> Turn:
    """Return a turn without progress, because the tick cannot use a provider.

    A person can then set the provider's key on the machine of the tick, or accept the provider's settings.
    """
    return Turn(None, f"the tick cannot use {provider}. Run `drawdown provider list` on its machine", in_vain=True)


def _flip_in_words(flip: Flip, provider: str) -> Turn:
    if flip.problem is not None:
        return Turn(None if flip.away else "failed", flip.problem, in_vain=flip.away)
    customer = f" as {flip.customer_id}" if flip.customer_id else ""
    if flip.already or flip.start_ms is None:
        return Turn("done", joined(f"{flip.org_id} is already assigned to {provider}{customer}", flip.note) or "")
    said = [f"{flip.org_id} is billed by {provider}{customer} from {show_time(flip.start_ms)} on"]
    said += [f"the next tick seals {flip.resolved_s:,} s that waited"] if flip.resolved_s else []
    said += (
        [f"the next tick seals usage that waited ({counted(flip.resolved_units, 'unit')})"]
        if flip.resolved_units
        else []
    )
    return Turn("done", joined(*said, flip.note) or "")


LINES_SAID: Final = 3
"""Differences left to a person that a correction's result names.

`drawdown reconcile` shows all differences.
"""


def correct(context: Context, asked: CorrectJob, by: By) -> Steps[Turn]:
    """Correct proven differences with providers.

    Errors: HistoryDoubted if the tick began on another history, or while a recovery is needed.
    """
    if asked.provider and asked.provider not in context.ready():
        return cannot_be_used(asked.provider)
    # Use a copy of the context, so that its checkpoint does not replace the checkpoint of later jobs.
    found: Reconciled = yield from reconcile(replace(context), scope_of(asked), by)
    if found.unfinished or found.unread:
        return Turn(None, corrections_in_words(found), in_vain=True)
    left = found.exit_status == 1 or asked.provider in found.skipped
    return Turn("failed" if left else "done", corrections_in_words(found))


def scope_of(asked: CorrectJob) -> ReconcileScope:
    """Return the scope of a correction, as for `drawdown reconcile --correct`."""
    return ReconcileScope(
        from_ms=asked.from_ms or 0,
        to_ms=2**53 if asked.to_ms is None else asked.to_ms,
        org_id=asked.org_id,
        provider=asked.provider,
        correct=True,
        recent=asked.from_ms is None and asked.to_ms is None,
    )


def corrections_in_words(found: Reconciled) -> str:
    """Return a text about the result of a comparison."""
    corrected = [line for line in found.differing if line.corrected]
    rest = [line for line in found.differing if abs(line.theirs - line.ours) != line.corrected]
    said = [f"{found.compared:,} compared, {counted(len(found.differing), 'differs', 'differ')}"]
    if corrected:
        said += [f"{len(corrected):,} corrected{_by(corrected)}"]
    said += [f"left to a person: {_describe_line(line)}" for line in rest[:LINES_SAID]]
    said += [f"and {len(rest) - LINES_SAID:,} more"] if len(rest) > LINES_SAID else []
    said += (
        [
            "with due, queued or in-doubt pushes, or newer than the provider's lag, so not compared yet: "
            f"{found.waiting:,}"
        ]
        if found.waiting
        else []
    )
    said += [f"{found.unread:,} could not be read: {'; '.join(found.reasons)}"] if found.unread else []
    if found.left_out:
        said += [f"{counted(len(found.left_out), 'balance was', 'balances were')} not compared"]
    said += ["time ran out before the comparison was complete. Queue a smaller range"] if found.unfinished else []
    return "; ".join([*said, *(f"{name}: not compared: {why}" for name, why in sorted(found.skipped.items()))])


def _by(corrected: Sequence[Line]) -> str:
    """Return a text about the corrected amount; '' if the lines have several units.

    Amounts in seconds and credits are never added up.
    """
    scales = {(line.feature if line.balance else "", line.scale) for line in corrected}
    if len(scales) > 1:
        return ""
    amount = show_quantity(sum(line.corrected for line in corrected), corrected[0].scale)
    return f", by {amount} {corrected[0].feature if corrected[0].scale > 1 else 'unit' if amount == '1' else 'units'}"


def _describe_line(line: Line) -> str:
    note = line.note or "the difference was not proven"
    return (
        f"{line.org_id}, {line.feature}: ours {show_quantity(line.ours, line.scale)}, "
        f"theirs {show_quantity(line.theirs, line.scale)}: {note}"
    )


def top_up(context: Context, asked: TopupJob, by: By) -> Steps[Turn]:
    """Resume or start a wallet's top-ups, and charge it if it is low.

    The job first checks that the payment service does not top up the customer itself.
    """
    terms: Terms = yield Transaction(
        "topup_asked", partial(topups.require_terms, customer_id=asked.wallet), rollback=True
    )
    if terms.service not in context.payments:
        return Turn(None, f"the tick cannot use {terms.service}. Run `drawdown doctor` on its machine", in_vain=True)
    try:
        if asked.what == "start" or terms.mode != "shadow":
            silent = yield from require_only_one(context, terms.service, terms.service_customer)
            if silent is not None:
                why = f"cannot read whether {terms.service} itself tops up {terms.service_customer}: {silent.reason}"
                return Turn(None, why, in_vain=True)
        said: TermsChange | None = yield Transaction("topup_queued", partial(_say, asked=asked, by=by))
    except Refused as error:
        return Turn("failed", str(error))
    filled = yield from fill(context, asked.wallet)
    return Turn("done", _topup_in_words(asked, said, filled))


def _say(connection: sa.Connection, *, asked: TopupJob, by: By) -> TermsChange | None:
    """Change the top-ups of a wallet. Return None if a change is no longer needed."""
    topups.require_terms(connection, asked.wallet)  # this locks the terms until the commit
    if not queue.is_to_be_done(connection, asked):
        return None
    if asked.what == "resume":
        return topups.resume(connection, asked.wallet, by)
    return topups.set_mode(connection, asked.wallet, "live", by)


def _topup_in_words(asked: TopupJob, said: TermsChange | None, filled: Filled) -> str:
    did = "resumed" if asked.what == "resume" else "live"
    words = [f"top-ups of {asked.wallet} are {'already ' if said is None else ''}{did}"]
    if said is not None and said.blocked_reason:
        words += [f"they {'had' if asked.what == 'resume' else 'have'} stopped: {said.blocked_reason}"]
    some = (("begun", filled.begun), ("credited", filled.credited), ("declined", filled.declined))
    words += [f"{count:,} {what}" for what, count in some if count]
    return "; ".join(words)
