"""Jobs to correct: what a comparison proves is fixed by a tick, once, and within its time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import ReadFailed
from drawdown.schema.database import write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import HistoryDoubted, present
from drawdown.worker.jobs import queue, run_jobs
from drawdown.worker.jobs.job_payloads import CorrectJob
from drawdown.worker.jobs.run_jobs import JobsDone, do_jobs
from drawdown.worker.reconcile import reconcile as reconciling
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile
from tests.fake_provider import FakeProvider
from tests.integration.reconciling import KEY, billed, charged, clean, everything, settle, states
from tests.integration.test_jobs import job, listed, turn, up_to, world
from tests.world import T0, Fleet

DAY = CorrectJob("acme", "fake", T0, T0 + DAY_MS)


def short(engine: sa.Engine, *more: int) -> tuple[Fleet, FakeProvider]:
    """The provider has forgotten the first window's charge."""
    fleet, provider = billed(engine, *more)
    del provider.charged[KEY]
    return fleet, provider


def witness(fleet: Fleet) -> Witness:
    return write(fleet.engine, present)


@pytest.mark.parametrize("asked", [DAY, CorrectJob()])
def test_correct_job_voids_push_missing_at_provider(engine: sa.Engine, asked: CorrectJob) -> None:
    fleet, provider = short(engine, 30)
    job(fleet, asked)
    assert turn(fleet, witness=witness(fleet)) == JobsDone(1, [])
    (found,) = listed(fleet)
    assert (found.kind, found.state) == ("correct", "done")
    assert found.result.startswith("1 compared, 1 differs; 1 corrected, by 60 units")
    assert fleet.rows("SELECT evidence_kind, actor, via FROM voids JOIN operator_actions USING (actor)")[:1] == [
        ("absent", "ann", "cli")
    ]
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert charged(provider) == 90
    clean(fleet)


def test_correct_job_ignores_other_days_and_orgs(engine: sa.Engine) -> None:
    fleet, _ = short(engine)
    fleet.assign("globex", provider="fake")
    before = everything(fleet)
    for asked in (replace(DAY, from_ms=T0 + DAY_MS, to_ms=None), replace(DAY, org_id="globex")):
        job(fleet, asked)
        assert turn(fleet).ended == 1
        assert listed(fleet)[0].result.startswith("0 compared, 0 differ")
    assert everything(fleet)[:3] == before[:3]


def test_correct_job_repeated_after_dead_tick_corrects_once(engine: sa.Engine) -> None:
    fleet, provider = short(engine, 30)
    job(fleet, DAY)
    up_to(fleet, do_jobs(fleet.context("dead")), lambda effect: effect.name == "end_job")
    assert fleet.one("SELECT COUNT(*) FROM voids") == 1
    fleet.clock.at_ms += queue.JOB_LEASE_MS
    assert turn(fleet) == JobsDone(1, [])
    assert listed(fleet)[0].result == "1 compared, 0 differ", "of what is left there"
    assert fleet.one("SELECT COUNT(*) FROM voids") == 1
    settle(fleet)
    assert charged(provider) == 90


def test_correct_job_without_proof_fails_and_does_not_void(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.charged[KEY] = replace(provider.charged[KEY], customer_id="somebody")
    provider.lookups[KEY] = ReadFailed("503")
    job(fleet, DAY)
    (failed,) = turn(fleet).failures
    assert "left to a person: acme, compute_1gb: ours 60, theirs 0" in failed
    assert listed(fleet)[0].state == "failed" and fleet.one("SELECT COUNT(*) FROM voids") == 0


def test_correct_job_with_unreadable_totals_fails_after_retries(engine: sa.Engine) -> None:
    fleet, provider = short(engine)
    provider.totals_fail = True
    job(fleet, DAY)
    for _ in range(queue.MAX_TRIES):
        assert turn(fleet).ended == 0
        assert "1 could not be read: acme: 503" in listed(fleet)[0].result
    assert "503" in turn(fleet).failures[0]
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0


def test_correct_job_waits_for_provider_missing_in_tick(engine: sa.Engine) -> None:
    fleet, _ = short(engine)
    job(fleet, DAY)
    assert turn(fleet, capabilities={}).ended == 0
    assert "the tick cannot use fake" in listed(fleet)[0].result
    assert turn(fleet) == JobsDone(1, [])


def test_correct_job_for_provider_without_totals_fails(engine: sa.Engine) -> None:
    fleet, _ = billed(engine, totals_lag_ms=None)
    job(fleet, DAY)
    assert "fake: not compared: it does not return totals" in turn(fleet).failures[0]


class Late:
    """A provider whose totals take a minute each."""

    def __init__(self, fleet: Fleet, provider: FakeProvider) -> None:
        self.asked: list[str] = []
        answer = provider.totals

        async def totals(customer_id: str, from_ms: int, to_ms: int) -> Any:
            self.asked.append(customer_id)
            fleet.clock.at_ms += queue.TURN_MS
            return await answer(customer_id, from_ms, to_ms)

        provider.totals = totals  # type: ignore[method-assign]


def many(engine: sa.Engine) -> tuple[Fleet, FakeProvider]:
    """Three customers, of each of which the provider has forgotten a charge."""
    fleet, provider = billed(engine)
    for org in ("globex", "initech"):
        fleet.assign(org, provider="fake", from_ms=T0)
        fleet.sample(org, T0 + 1, 60)
    settle(fleet)
    provider.charged.clear()
    return fleet, provider


def test_job_out_of_time_continues_and_fails_with_reason_after_some_ticks(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "CHUNK", 1)
    fleet, provider = many(engine)
    late = Late(fleet, provider)
    job(fleet, replace(DAY, org_id=""))
    assert turn(fleet).ended == 0
    assert len(late.asked) == 1, "no more is asked once time is up"
    assert (listed(fleet)[0].state, "time ran out before the comparison was complete" in listed(fleet)[0].result) == (
        "waiting",
        True,
    )
    assert "could not be read" not in listed(fleet)[0].result, "what was not asked for is not said to be unreadable"
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0, "nor was there time to look a push up"
    for _ in range(queue.MAX_TRIES):
        last = turn(fleet)
    assert "Queue a smaller range" in last.failures[0] and listed(fleet)[0].state == "failed"


def test_reconcile_without_time_reports_unfinished(engine: sa.Engine) -> None:
    fleet, _ = short(engine)
    before = everything(fleet)
    context = fleet.context().within(0)
    found = runner.run(reconcile(context, ReconcileScope(provider="fake", correct=True), fleet.by), world(fleet))
    assert (found.compared, found.unfinished, found.exit_status) == (0, True, 75)
    assert everything(fleet) == before


def test_correct_job_of_partial_day_or_duplicate_is_refused(engine: sa.Engine) -> None:
    fleet, _ = short(engine)
    with pytest.raises(UsageError, match="expected a whole day"):
        replace(DAY, from_ms=T0 + 1)
    with pytest.raises(UsageError, match="invalid range"):
        replace(DAY, to_ms=T0)
    job(fleet, DAY)
    with pytest.raises(Refused, match="the same job is already queued"):
        job(fleet, DAY)
    assert listed(fleet)[0].what == "correction of acme at fake, from 2026-01-01, up to 2026-01-02"
    command = "reconcile acme --provider fake --from 2026-01-01 --to 2026-01-02 --correct"
    assert " ".join(listed(fleet)[0].command) == command


def test_correct_job_with_doubted_history_is_refused(engine: sa.Engine) -> None:
    fleet, _ = short(engine)
    job(fleet, DAY)
    other = replace(witness(fleet), number=7)
    with pytest.raises(HistoryDoubted):
        turn(fleet, witness=other)
    fleet.write("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'restored'")
    with pytest.raises(HistoryDoubted):
        job(fleet, CorrectJob())
    fleet.clock.at_ms += queue.JOB_LEASE_MS
    with pytest.raises(HistoryDoubted):
        turn(fleet)
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0


def test_correct_job_report_counts_lines_not_shown(engine: sa.Engine) -> None:
    line = reconciling.Line(T0, "acme", "fake", "acme", "f", 9, 2, "short")
    found = Reconciled(compared=5, differing=[line] * (run_jobs.LINES_SAID + 2))
    assert run_jobs.corrections_in_words(found).endswith("the difference was not proven; and 2 more")
