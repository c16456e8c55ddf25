"""Jobs: placed and cancelled by people, while ticks take them up, put them back and end them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine.effects import Steps
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import AcceptJob, Asked, AssignJob, CorrectJob, ReplayJob, TopupJob
from drawdown.worker.jobs.run_jobs import JobsDone, do_jobs
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.orgs.flips import FlipOptions, Wish, flip
from drawdown.worker.provider.actions import terms_of
from drawdown.worker.replay.plan import ReplayScope
from drawdown.worker.tick import tick
from drawdown.worker.topup import actions as topups
from tests.interleave.of_steps import TOPPED_UP
from tests.interleave.party import Act, Party, step
from tests.interleave.stage import FLIP, NOW, OTHER_CAN, T0, Stage

ALL: Final = ReplayJob(ReplayScope(), T0, NOW - 2 * WINDOW_MS)
ACME: Final = replace(ALL, scope=ReplayScope(("acme",)))
TO_FAKE: Final = AssignJob("drifter", "fake", "cus_job")
PERSONS: Final = "cus_person"
"""The customer that a person names instead."""
NEW_UNIT: Final = replace(OTHER_CAN, unit=60)
"""What the third provider declares from a day on."""
NEW_TERMS: Final = AcceptJob("other", terms_of(NEW_UNIT))
CORRECTION: Final = CorrectJob(provider="embedded")
START: Final = TopupJob("spent", "start")
RIGHTLY: Final = ("since the job was queued", "left to a person")


def _place(stage: Stage, asked: Asked) -> None:
    """One job for both."""
    write(stage.engine, lambda c: None if queue.same_as(c, asked) else queue.place(c, asked, stage.by))


def _placed(stage: Stage) -> None:
    _place(stage, ALL)


def _told(steps: Steps[JobsDone]) -> Steps[Any]:
    """Where a person said otherwise meanwhile, it is right that the job fails; others say what is theirs."""
    done: JobsDone = yield from steps
    return replace(done, failures=[one for one in done.failures if not any(right in one for right in RIGHTLY)])


def _does(stage: Stage) -> Steps[Any]:
    return _told(do_jobs(stage.context("other")))


def _has_no_time(stage: Stage) -> Steps[Any]:
    """Its time is up after the first part of the range."""
    context = stage.context("other")
    asked = iter((False,))
    return do_jobs(replace(context, stopping=lambda: next(asked, True)))


def _ended_once(stage: Stage) -> Iterator[str]:
    """What is over has an end and nobody who has it; what was cancelled had not begun to be replayed after that."""
    for job_id, state in stage.rows(
        "SELECT job_id, state FROM jobs WHERE (state IN ('done', 'failed', 'cancelled')) <> (ended_ms IS NOT NULL) "
        "OR (state <> 'under_way' AND worker IS NOT NULL)"
    ):
        yield f"job {job_id} is {state}, and is not"
    for (count,) in stage.rows("SELECT COUNT(*) FROM jobs WHERE state = 'under_way'"):
        if count > 1:
            yield f"{count} jobs are under way at once"


def _said(name: str, work: Callable[[Stage, sa.Connection], object], before: Callable[[Stage], object]) -> Party:
    def ready(stage: Stage) -> Act:
        before(stage)
        return Act(lambda engine: write(engine, lambda c: work(stage, c)))

    return Party(name, ready, _ended_once)


def _done(name: str, steps: Callable[[Stage], Steps[Any]]) -> Party:
    return replace(step(name, steps, _placed), check=_ended_once)


def _terms_changed(stage: Stage) -> None:
    """The third provider has another unit than when it was met; nothing was sent to it yet."""
    steps = tick(stage.context())
    stage.walk(steps).until("sweep", stage.engine)
    stage.other.capabilities = NEW_UNIT


def _terms_ordered(stage: Stage) -> None:
    _terms_changed(stage)
    _place(stage, NEW_TERMS)


def _accepts(stage: Stage) -> Steps[Any]:
    return _told(do_jobs(stage.context()))


def _tried_out(stage: Stage) -> None:
    """A wallet that is low, of which it is only written down what would be charged; one for both."""
    modes = [mode for (mode,) in stage.rows("SELECT mode FROM topup_terms")]
    if modes and modes != ["shadow"]:  # as the other one needed it, until somebody thought better of it
        write(stage.engine, lambda c: topups.set_mode(c, "spent", "shadow", stage.by))
    if not modes:
        shadow = replace(TOPPED_UP, mode="shadow")
        write(stage.engine, lambda c: topups.set_terms(c, "spent", shadow, stage.pay.capabilities, stage.by))


def _ordered(kind: str, before: Callable[[Stage], None], asked: Asked) -> Callable[[Stage], None]:
    """Queue a job, unless a tick that lost an answer has one of its kind: the next tick goes on with that one."""

    def ready(stage: Stage) -> None:
        if not stage.rows("SELECT 1 FROM jobs WHERE kind = :kind AND state = 'under_way'", kind=kind):
            before(stage)
            _place(stage, asked)

    return ready


def _starts(stage: Stage) -> Steps[Any]:
    return _told(do_jobs(stage.context(payments={"fake": stage.pay.capabilities})))


def _stays_stopped(stage: Stage) -> Iterator[str]:
    """Whatever was queued before."""
    if not stage.rows("SELECT 1 FROM jobs WHERE kind = 'topup'"):
        return  # what another person said of it instead
    for (mode,) in stage.rows("SELECT mode FROM topup_terms WHERE mode <> 'stopped'"):
        yield f"a person stopped the wallet's top-ups, and they are {mode}"


def _without_customer(stage: Stage) -> None:
    """The organisation is at the provider, and waits for a customer; one for both."""
    if not stage.rows("SELECT 1 FROM assignments WHERE org_id = 'drifter'"):
        write(stage.engine, lambda c: assign(c, ["drifter"], "fake", stage.by, customer_id="", from_ms=FLIP))


def _moves(stage: Stage) -> Steps[Any]:
    """A person's own command."""
    wish = Wish(TO_FAKE.org_id, PERSONS)
    return flip(stage.context("other"), [wish], FlipOptions(TO_FAKE.provider), stage.by)


def _stays_moved(stage: Stage) -> Iterator[str]:
    """Unless the job was queued by somebody who saw the person's customer."""
    if any(PERSONS in payload for (payload,) in stage.rows("SELECT payload FROM jobs WHERE kind = 'assign'")):
        return
    ((customer,),) = stage.rows(
        "SELECT customer_id FROM assignments WHERE org_id = 'drifter' ORDER BY start_ms DESC LIMIT 1"
    )
    if customer == TO_FAKE.customer_id:
        yield f"a person named {PERSONS}, and a job that was queued before bills {customer}"


def _first(stage: Stage) -> int:
    return int(stage.rows("SELECT MIN(job_id) FROM jobs")[0][0])


JOBS: Final = (
    _said("cli.nouns.replay:replay_", lambda s, c: queue.place(c, ACME, s.by), lambda _stage: None),
    _said("cli.nouns.orgs:_queue", lambda s, c: queue.place(c, TO_FAKE, s.by), _without_customer),
    replace(step("assign by a job", _does, _ordered("assign", _without_customer, TO_FAKE)), check=_ended_once),
    replace(step("assign instead of a job", _moves, _without_customer), check=_stays_moved),
    _said("cli.nouns.providers:accept", lambda s, c: queue.place(c, NEW_TERMS, s.by), _terms_changed),
    _said("cli.declared:run job cancel", lambda s, c: queue.cancel(c, _first(s), s.by), _placed),
    _done("take_job", _does),
    _done("end_job", _does),
    replace(step("accept_terms", _accepts, _terms_ordered), check=_ended_once),
    _done("put_job_back", _has_no_time),
    _said("cli.nouns.reconcile:_queue", lambda s, c: queue.place(c, CORRECTION, s.by), lambda _stage: None),
    _said("cli.nouns.topups:_queue", lambda s, c: queue.place(c, START, s.by), _tried_out),
    replace(step("topup_queued", _starts, _ordered("topup", _tried_out, START)), check=_ended_once),
    replace(
        _said(
            "cli.nouns.topups:_set_mode of what is to start",
            lambda s, c: topups.set_mode(c, "spent", "stopped", s.by),
            _tried_out,
        ),
        check=_stays_stopped,
    ),
)
