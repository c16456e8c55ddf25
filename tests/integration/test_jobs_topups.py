"""Jobs about top-ups: another card, and a start, once the payment service was asked; once, whatever dies between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.payments.protocol import InDoubt, NotSent
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused, UnknownId
from drawdown.schema.units import MICRO, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.jobs import lists, queue
from drawdown.worker.jobs.job_payloads import TopupJob
from drawdown.worker.jobs.lists import JobRow
from drawdown.worker.jobs.run_jobs import JobsDone, do_jobs
from drawdown.worker.topup import actions as said
from tests.integration.test_jobs import alone
from tests.integration.topping import Purses, judged

RESUME, START = TopupJob("acme", "resume"), TopupJob("acme", "start")


@pytest.fixture
def purses(engine: sa.Engine) -> Purses:
    purses = Purses(engine)
    purses.set()
    return purses


@pytest.fixture
def stopped(purses: Purses) -> Purses:
    """Its card was declined for good."""
    purses.pay.cards["cus_acme"] = "stolen"
    purses.fill()
    assert terms(purses)["blocked_ms"] is not None
    return purses


def job(purses: Purses, asked: TopupJob) -> int:
    purses.later(1)
    by = By(purses.clock.at_ms, "ann", "they called", "console")
    purses.armed.setdefault(asked.wallet, []).append(by.now_ms)
    return purses.write(lambda c: queue.place(c, asked, by))


def turn(purses: Purses) -> JobsDone:
    """What the next tick does of jobs."""
    purses.later(WINDOW_MS)
    return runner.run(do_jobs(purses.context()), purses.world())


def listed(purses: Purses) -> JobRow:
    return purses.read(lambda c: lists.list_jobs(c, most=1))[0]


def terms(purses: Purses) -> dict[str, Any]:
    return purses.read(lambda c: dict(c.execute(sa.text("SELECT * FROM topup_terms")).mappings().one()))


def mode(purses: Purses, mode: said.Mode) -> None:
    purses.later(1)
    purses.write(lambda c: said.set_mode(c, "acme", mode, purses.by))


def deeds(purses: Purses, action: str) -> list[tuple[Any, ...]]:
    return purses.rows("SELECT actor, reason, via FROM operator_actions WHERE action = :a", a=action)


def dies_before(purses: Purses, name: str) -> None:
    """A tick that never comes back from before a transaction."""
    steps: Steps[Any] = do_jobs(purses.context("dead"))
    effect = steps.send(None)
    while not (isinstance(effect, Transaction) and effect.name == name):
        effect = steps.send(runner.run(alone(effect), purses.world()))


@pytest.mark.both_databases
def test_new_card_resumes_top_ups_and_low_wallet_is_filled_in_same_tick(stopped: Purses) -> None:
    stopped.pay.cards.clear()
    number = job(stopped, RESUME)
    assert stopped.fill().begun == 0, "nothing goes on before a tick did it"
    assert turn(stopped) == JobsDone(1, [])
    found = listed(stopped)
    assert (found.job_id, found.kind, found.state) == (number, "topup", "done")
    stopped_by = "stolen_card: the card was declined"
    assert found.result == (f"top-ups of acme are resumed; they had stopped: {stopped_by}; 1 begun; 1 credited")
    assert found.command == ["topup", "resume", "acme"]
    assert (stopped.credits(), terms(stopped)["blocked_ms"], judged(stopped)) == (20, None, [])
    assert deeds(stopped, "topup_resume") == [("ann", "they called", "console")]
    assert stopped.pay.asked_of == ["cus_acme"]


@pytest.mark.parametrize("was", ["stopped", "shadow"])
def test_topup_start_job_charges_wallet(purses: Purses, was: said.Mode) -> None:
    mode(purses, was)
    job(purses, START)
    assert turn(purses) == JobsDone(1, [])
    assert listed(purses).result == "top-ups of acme are live; 1 begun; 1 credited"
    assert (terms(purses)["mode"], purses.credits(), judged(purses)) == ("live", 20, [])
    assert purses.pay.asked_of == ["cus_acme"], "also where it was only tried out"


@pytest.mark.parametrize("asked", [RESUME, START])
@pytest.mark.parametrize("before", ["topup_begin", "end_job"])
def test_topup_job_repeated_after_dead_tick_charges_once(stopped: Purses, asked: TopupJob, before: str) -> None:
    stopped.pay.cards.clear()
    if asked is START:
        stopped.set()  # another card, too
        mode(stopped, "stopped")
    job(stopped, asked)
    dies_before(stopped, before)
    assert turn(stopped).ended == 1
    assert (listed(stopped).state, " already" in listed(stopped).result) == ("done", True)
    assert (stopped.credits(), len(stopped.pay.taken), judged(stopped)) == (20, 1, [])
    assert len(deeds(stopped, "topup_resume" if asked is RESUME else "topup_mode")) == (1 if asked is RESUME else 2)


def test_topup_resume_job_repeated_after_decline_fails(stopped: Purses) -> None:
    """The tick died once it was armed; the new card was declined, and no person says that there is a third one."""
    job(stopped, RESUME)
    dies_before(stopped, "topup_begin")
    stopped.fill()
    charged = len(stopped.pay.charges)
    assert "a charge was declined, or the top-ups stopped, since the job was queued" in turn(stopped).failures[0]
    assert terms(stopped)["blocked_ms"] is not None and len(deeds(stopped, "topup_resume")) == 1
    stopped.fill()
    assert len(stopped.pay.charges) == charged


@pytest.mark.parametrize("asked", [RESUME, START])
def test_topup_job_for_wallet_filled_by_service_fails(stopped: Purses, asked: TopupJob) -> None:
    if asked is START:
        mode(stopped, "stopped")
    before = terms(stopped)
    stopped.pay.fills["cus_acme"] = NotSent("auto top-ups are on", None)
    job(stopped, asked)
    assert "cannot charge cus_acme at fake: auto top-ups are on" in turn(stopped).failures[0]
    assert (listed(stopped).state, terms(stopped)) == ("failed", before)


def test_topup_job_without_payment_answer_fails_after_retries(stopped: Purses) -> None:
    stopped.pay.fills["cus_acme"] = InDoubt("503")
    job(stopped, RESUME)
    for _ in range(queue.MAX_TRIES):
        assert turn(stopped).ended == 0
        assert (listed(stopped).state, "503" in listed(stopped).result) == ("waiting", True)
    failed = turn(stopped)
    assert failed.ended == 1 and "503" in failed.failures[0] and listed(stopped).state == "failed"
    assert terms(stopped)["blocked_ms"] is not None


def test_topup_job_after_payment_service_exception_waits(stopped: Purses) -> None:
    def breaks() -> None:
        raise OSError("the connection was cut")

    stopped.pay.meanwhile = breaks
    job(stopped, RESUME)
    assert turn(stopped).ended == 0 and "the connection was cut" in listed(stopped).result


def test_topup_job_waits_for_payment_service_missing_in_tick(stopped: Purses) -> None:
    job(stopped, RESUME)
    stopped.later(WINDOW_MS)
    context = stopped.context()
    context.payments = {}
    assert runner.run(do_jobs(context), stopped.world()).ended == 0
    assert "the tick cannot use fake" in listed(stopped).result
    assert turn(stopped).ended == 1


def stops(purses: Purses) -> None:
    mode(purses, "stopped")


def raises(purses: Purses) -> None:
    purses.later(1)
    purses.set(threshold_micro=9 * MICRO, mode="stopped")


def starts_and_stops(purses: Purses) -> None:
    mode(purses, "live")
    mode(purses, "stopped")


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize(
    ("asked", "change"), [(RESUME, stops), (RESUME, raises), (START, raises), (START, starts_and_stops)]
)
def test_topup_job_with_terms_changed_since_queued_fails(
    stopped: Purses, when: str, asked: TopupJob, change: Callable[[Purses], None]
) -> None:
    if asked is START:
        mode(stopped, "stopped")
    job(stopped, asked)
    if when == "before":
        change(stopped)
    else:
        stopped.pay.meanwhile = lambda: change(stopped)
    assert "terms of acme have changed since the job was queued" in turn(stopped).failures[0]
    assert terms(stopped)["mode"] == "stopped" and not deeds(stopped, "topup_resume")
    assert bool(stopped.pay.asked_of) == (when == "meanwhile"), "nobody is asked in vain"


def test_topup_job_after_manual_resume_is_done(stopped: Purses) -> None:
    stopped.pay.cards.clear()
    job(stopped, RESUME)
    stopped.resume()
    assert turn(stopped) == JobsDone(1, [])
    assert listed(stopped).result == "top-ups of acme are already resumed; 1 begun; 1 credited"
    assert len(deeds(stopped, "topup_resume")) == 1


def test_topup_resume_job_in_shadow_mode_skips_payment_service(stopped: Purses) -> None:
    mode(stopped, "shadow")
    job(stopped, RESUME)
    assert turn(stopped) == JobsDone(1, [])
    assert (stopped.pay.asked_of, terms(stopped)["blocked_ms"]) == ([], None)


def test_topup_job_without_effect_is_refused(purses: Purses) -> None:
    for asked, why in ((RESUME, "a declined card has not stopped them"), (START, "are already live")):
        with pytest.raises(Refused, match=why):
            job(purses, asked)
    mode(purses, "stopped")
    with pytest.raises(Refused, match=r"top-ups of acme are stopped\. Run `drawdown topup start acme`"):
        job(purses, RESUME)
    job(purses, START)
    with pytest.raises(Refused, match="the same job is already queued"):
        job(purses, START)
    with pytest.raises(UnknownId):
        job(purses, TopupJob("acmee", "start"))
