"""Queue, cancel, claim and end jobs.

Guarantee: a job is queued only if, by the rows of the database, it could begin now. It can be cancelled only while it
waits. Ticks do one job at a time, the oldest first. The tick that does a job has a lease. If the tick dies, another
tick can take the job after the lease has expired. A job ends once. A job about a wallet's top-ups applies to the terms
that the person saw. If the terms changed or a payment was declined since, the job fails.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.declare import Action, Fact, Values
from drawdown.schema.declare import Invocation as Who
from drawdown.schema.errors import Refused, UnknownId, UsageError, explain_race
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import MINUTE_MS, horizon
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.jobs.job_payloads import (
    AcceptJob,
    Asked,
    AssignJob,
    Biller,
    CorrectJob,
    ReplayJob,
    Stood,
    TopupJob,
    read_job,
)
from drawdown.worker.jobs.lists import Number
from drawdown.worker.orgs import flips
from drawdown.worker.orgs.assignments import start_of
from drawdown.worker.provider.actions import UNCHANGED, terms_in_force
from drawdown.worker.replay.plan import ReplayPlan, plan
from drawdown.worker.topup.actions import STOPPED, terms_of

SQL = queries(__file__)

TURN_MS: Final = 2 * MINUTE_MS
"""Longest time that a tick works on jobs, in milliseconds.

The next tick continues.
"""
JOB_LEASE_MS: Final = TURN_MS + LEASE_MS
"""Lease of a job, in milliseconds.

It is shorter than the time between two ticks, so that the next tick takes over from a tick that died.
"""
MAX_TRIES: Final = 5
"""Consecutive turns without progress after which a job fails.

Drawdown thus stops a job that kills ticks. A provider that never answers does not delay all other jobs.
"""
MAX_OPEN_JOBS: Final = 50
"""Most pending and running jobs.

Drawdown refuses to queue further jobs.
"""

State = Literal["waiting", "under_way", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class ClaimedJob:
    """A job that this worker has claimed.

    `by.now_ms`: the time of the claim. `queued_ms`: the time when it was queued. `plan`: the plan of a replay. It is
    None for another kind of job, or if this worker's clock is so far behind that fewer windows of the range are closed
    than when the job was queued. `failed`: the reason why the job failed before it began ('': it can begin).
    """

    job_id: int
    payload: Asked
    by: By
    queued_ms: int
    plan: ReplayPlan | None
    failed: str = ""


def place(connection: sa.Connection, asked: Asked, by: By) -> int:
    """Queue a job, and return its number.

    Errors: those of `plan`. HistoryDoubted for a correction while a recovery is needed. UnknownId for a wallet without
    top-ups. Refused if the job is not needed or cannot be done, if the same job is already queued, or if MAX_OPEN_JOBS
    are open. If two equal jobs are queued at the same moment, both may be stored. The second job then finds its work
    done.
    """
    _plan(connection, asked, by.now_ms)
    asked = understood(connection, asked)
    if isinstance(asked, AssignJob) and asked.from_ms is None:
        _require_need(connection, asked, by)
    if isinstance(asked, AcceptJob) and asked.terms == terms_in_force(connection, asked.provider):
        raise Refused(UNCHANGED.format(asked.provider))
    if isinstance(asked, TopupJob):
        require_use(asked)
    if isinstance(asked, CorrectJob):
        require_whole(connection)
    same = same_as(connection, asked)
    if same is not None:
        raise Refused(f"the same job is already queued: {same}. See `drawdown job list`")
    if SQL.run(connection, "count_open").scalar_one() >= MAX_OPEN_JOBS:
        raise Refused(
            f"cannot queue the job: the maximum of {MAX_OPEN_JOBS:,} open jobs is reached. Wait until ticks have done "
            "some jobs, or run `drawdown job cancel JOB`"
        )
    values = {
        "kind": asked.kind,
        "payload": asked.text(),
        "at_ms": by.now_ms,
        "via": by.via,
        "actor": by.actor,
        "reason": by.reason,
    }
    job_id = int(SQL.run(connection, "place", values).scalar_one())
    record(connection, "job_queue", str(job_id), {"kind": asked.kind, "work": str(asked)}, by)
    return job_id


def understood(connection: sa.Connection, asked: Asked) -> Asked:
    """Return the job in the form in which it is stored.

    An assignment or a top-up is stored with the present state of its object.

    Errors: UnknownId for a wallet without top-ups.
    """
    match asked:
        case ReplayJob():
            return asked.aligned()
        case AssignJob():
            return replace(asked, was=latest_biller(connection, asked.org_id))
        case TopupJob():
            return replace(asked, was=stands(connection, asked.wallet))
        case AcceptJob() | CorrectJob():
            return asked


def latest_biller(connection: sa.Connection, org_id: str) -> Biller | None:
    """Return the biller of an organisation's latest assignment; None if unassigned."""
    row = SQL.run(connection, "latest_assignment", {"org_id": org_id}).one_or_none()
    return None if row is None else Biller(row.provider, row.customer_id, int(row.start_ms))


def _plan(connection: sa.Connection, asked: Asked, now_ms: int) -> ReplayPlan | None:
    """Return the plan of a replay; None for another job. Errors: those of `plan`."""
    if isinstance(asked, ReplayJob):
        return plan(connection, asked.scope, asked.from_ms, asked.to_ms, now_ms)
    return None


def require_as_it_stood(connection: sa.Connection, asked: Asked, by: By) -> None:
    """Refuse a job if a person has changed its object since it was queued.

    Call the function again under the locks of the change, because a person can act while Drawdown reads a provider.
    Errors: Refused.
    """
    if isinstance(asked, TopupJob):
        is_to_be_done(connection, asked)
    if isinstance(asked, AssignJob):
        latest = latest_biller(connection, asked.org_id)
        if latest != asked.was and not _is_so(connection, asked, by):
            show = typed("drawdown", "org", "show", asked.org_id)
            raise Refused(
                f"cannot assign {asked.org_id}: its assignment changed since the job was queued. Check it with "
                f"`{show}`, and queue the job again"
            )


def _since(connection: sa.Connection, asked: AssignJob, by: By) -> int | None:
    """Return the start of a requested assignment if it exists; None otherwise."""
    wish = flips.Wish(asked.org_id, asked.customer_id)
    return flips.so_since(connection, wish, asked.provider, asked.from_ms, by)


def _require_need(connection: sa.Connection, asked: AssignJob, by: By) -> None:
    since_ms = _since(connection, asked, by)
    if since_ms is not None:
        show = f"`drawdown org show {typed(asked.org_id)}`"
        raise Refused(f"{asked.org_id} already has this assignment, from {utc(since_ms)} on. See {show}")


def _is_so(connection: sa.Connection, asked: AssignJob, by: By) -> bool:
    """Return True if a requested assignment exists.

    An assignment with a later start counts only if the person saw an assignment to this provider.
    """
    since_ms, was = _since(connection, asked, by), asked.was
    was_there = was is not None and was.provider == asked.provider
    return since_ms is not None and (was_there or since_ms <= start_of(asked.from_ms, by))


def same_as(connection: sa.Connection, asked: Asked) -> str | None:
    """Return a text about an equal open job; None if such a job does not exist."""
    values = {"kind": asked.kind, "payload": understood(connection, asked).text()}
    row = SQL.run(connection, "same", values).one_or_none()
    return None if row is None else f"job {row.job_id}, by {row.actor}, is {row.state.replace('_', ' ')}"


def cancel(connection: sa.Connection, job_id: int, by: By) -> None:
    """Cancel a job that waits.

    Errors: UnknownId for an unknown job; Refused if it is under way or has ended.
    """
    values = {"job_id": job_id, "now_ms": by.now_ms}
    if SQL.run(connection, "cancel", values).rowcount != 1:
        state = state_of(connection, job_id)
        raise Refused(
            f"cannot cancel job {job_id}: it is {state.replace('_', ' ')}, and you can cancel a job only while it "
            "waits. Run `drawdown job list`"
        )
    record(connection, "job_cancel", str(job_id), {}, by)


def state_of(connection: sa.Connection, job_id: int) -> str:
    """Return the state of a job. Errors: UnknownId if it does not exist."""
    state = SQL.run(connection, "state", {"job_id": job_id}).scalar_one_or_none()
    if state is None:
        raise UnknownId(f"unknown job {job_id}. Run `drawdown job list`", "job")
    return str(state)


def take(connection: sa.Connection, worker: str, now_ms: int) -> ClaimedJob | None:
    """Claim and return the oldest open job.

    Return None if another worker has claimed that job, or if all jobs have ended.
    """
    values = {"worker": worker, "lease_ms": now_ms + JOB_LEASE_MS, "now_ms": now_ms}
    row = SQL.run(connection, "take", values).one_or_none()
    if row is None:
        return None
    asked, by = read_job(row.kind, row.payload), By(now_ms, row.actor, row.reason, row.via)
    try:
        if row.tries > MAX_TRIES:
            why = f": {row.said}" if row.said else ". Read the log of the ticks"
            raise Refused(f"{MAX_TRIES} ticks could not finish the job{why}")
        require_as_it_stood(connection, asked, by)
        # If this machine's clock is behind, it shows fewer closed windows, so the plan would omit a part of the range.
        is_short = isinstance(asked, ReplayJob) and horizon(now_ms) < min(asked.to_ms, horizon(row.at_ms))
        planned = None if is_short else _plan(connection, asked, now_ms)
    except (Refused, UsageError) as error:
        end(connection, row.job_id, worker, "failed", str(error), now_ms)
        return ClaimedJob(row.job_id, asked, by, row.at_ms, None, str(error))
    return ClaimedJob(row.job_id, asked, by, row.at_ms, planned)


def put_back(connection: sa.Connection, job_id: int, worker: str, said: str, *, in_vain: bool = False) -> bool:
    """Put a job back for the next tick; return False if another worker has it.

    `said`: the reason why the job waits. `in_vain`: True if this turn counts as a try without progress; False to set
    the count of tries to 0.
    """
    values = {"job_id": job_id, "worker": worker, "said": said, "counted": int(in_vain)}
    return SQL.run(connection, "put_back", values).rowcount == 1


def end(connection: sa.Connection, job_id: int, worker: str, state: State, said: str, now_ms: int) -> bool:
    """End a job; return False if another worker has it and reports its result."""
    values = {"job_id": job_id, "worker": worker, "state": state, "said": said, "now_ms": now_ms}
    return SQL.run(connection, "end", values).rowcount == 1


def sealed(connection: sa.Connection, job_id: int) -> int:
    """Return the number of pushes that all replays of a job sealed.

    The number includes the pushes of ticks that died.
    """
    return int(SQL.run(connection, "sealed", {"job_id": job_id}).scalar_one())


def stands(connection: sa.Connection, wallet: str) -> Stood:
    """Return the present state of a wallet's top-ups.

    Errors: UnknownId if the wallet does not have top-ups.
    """
    row = SQL.run(connection, "topup_terms", {"wallet": wallet}).mappings().one_or_none()
    if row is None:
        ids.require(connection, ids.TOPPED_UP, wallet)
        raise Refused(explain_race("top-up of", wallet))
    terms = asdict(terms_of(row))
    mode = terms.pop("mode")
    return Stood(
        json.dumps(terms, sort_keys=True), mode, row["at_ms"], row["declines"], row["wait_until_ms"], row["blocked_ms"]
    )


def require_use(asked: TopupJob) -> None:
    """Refuse a job about top-ups that is not needed or is not possible.

    Errors: Refused.
    """
    assert asked.was is not None
    if asked.what == "start" and asked.was.mode == "live":
        raise Refused(f"top-ups of {asked.wallet} are already live. See `drawdown topup show {typed(asked.wallet)}`")
    if asked.what == "resume" and asked.was.mode == "stopped":
        raise Refused(STOPPED.format(asked.wallet, typed(asked.wallet)))
    if asked.what == "resume" and asked.was.stops == (0, None, None):
        raise Refused(
            f"cannot resume the top-ups of {asked.wallet}: a declined card has not stopped them. "
            f"See `drawdown topup show {typed(asked.wallet)}`"
        )


def is_to_be_done(connection: sa.Connection, asked: TopupJob) -> bool:
    """Return True if a job about top-ups must still be done.

    If it is False, a tick that died or a person has done the job.

    Errors: Refused if a person changed the terms since the job was queued, or a charge was declined since.
    """
    was, now = asked.was, stands(connection, asked.wallet)
    assert was is not None
    if asked.what == "start" and (now.terms, now.mode) == (was.terms, "live"):
        return False
    if (now.terms, now.mode, now.said_ms) != (was.terms, was.mode, was.said_ms):
        raise Refused(
            f"the terms of {asked.wallet} have changed since the job was queued. Check the terms, and queue the "
            "job again"
        )
    if asked.what == "start" or now.stops == was.stops:
        return True
    if now.stops == (0, None, None):
        return False
    raise Refused(
        f"cannot resume the top-ups of {asked.wallet}: a charge was declined, or the top-ups stopped, since the job "
        f"was queued. See `{typed('drawdown', 'topup', 'show', asked.wallet)}`, and queue the job again"
    )


@dataclass(frozen=True)
class JobCancelled:
    """A job that was cancelled."""

    job_id: int
    state: Literal["cancelled"] = "cancelled"


def _cancel(connection: sa.Connection, who: Who, job: Number) -> JobCancelled:
    cancel(connection, job, who.by)
    return JobCancelled(job)


def _facts(connection: sa.Connection, _who: Who, values: Values) -> Sequence[Fact]:
    return [Fact("State", state_of(connection, values["job"]).replace("_", " "))]


ACTIONS: Final = (
    Action(
        "job cancel",
        "Cancel a job",
        "Cancel a waiting job. Windows that the job already sealed stay sealed.",
        _cancel,
        lambda done: f"job {done.job_id}: cancelled",
        path="/v1/jobs/{job}/cancel",
        scope="jobs:write",
        facts=_facts,
        place="/console/jobs",
    ),
)
