"""Jobs: a tick does them, once; one that died half-way, two at once, time that was up, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import Effect, Steps, Transaction
from drawdown.worker.engine.runner import World
from drawdown.worker.engine.shard import Shard
from drawdown.worker.jobs import lists, queue, run_jobs
from drawdown.worker.jobs.job_payloads import MAX_JOB_ORGS, Asked, ReplayJob
from drawdown.worker.jobs.lists import JobRow
from drawdown.worker.jobs.run_jobs import JobsDone, do_jobs
from drawdown.worker.replay.plan import ReplayScope
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_replay import BILLED, END, die_after, missed, planned, sealed
from tests.world import T0, Fleet

ALL = ReplayJob(ReplayScope(), T0, END)


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return missed(Fleet(engine, extra={"fake": FakeProvider(capabilities())}))


class Moving:
    """A clock that each look at it moves on."""

    trusted = True

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def now_ms(self) -> int:
        self.fleet.clock.at_ms += 1
        return self.fleet.clock.at_ms


def job(fleet: Fleet, asked: Asked = ALL) -> int:
    by = By(fleet.clock.now_ms(), "ann", "they were lost", "cli")
    return write(fleet.engine, lambda c: queue.place(c, asked, by))


def listed(fleet: Fleet) -> list[JobRow]:
    return read(fleet.engine, lambda c: lists.list_jobs(c, most=10))


def later(fleet: Fleet, **options: Any) -> JobsDone:
    """What the next tick does of jobs; its own seal, and its sweep, would find what the cursor has missed."""
    fleet.clock.at_ms += WINDOW_MS
    return turn(fleet, **options)


def turn(fleet: Fleet, **options: Any) -> JobsDone:
    return runner.run(do_jobs(replace(fleet.context(), **options)), world(fleet))


def world(fleet: Fleet) -> World:
    return World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)


def up_to(fleet: Fleet, steps: Steps[Any], dies_at: Callable[[Transaction], bool]) -> None:
    """Do the transactions of some steps, and never come back from one."""
    answer: object = None
    while True:
        effect = steps.send(answer)
        answer = None
        if isinstance(effect, Transaction):
            if dies_at(effect):
                return
            answer = write(fleet.engine, effect.work, rollback=effect.rollback)
        else:
            answer = runner.run(alone(effect), world(fleet))


def alone(effect: Effect) -> Steps[object]:
    return (yield effect)


def test_tick_runs_queued_job_and_records_result_once(fleet: Fleet) -> None:
    number = job(fleet)
    assert [(one.state, one.windows_done) for one in listed(fleet)] == [("waiting", 0)]
    assert later(fleet) == JobsDone(1, [])
    (found,) = listed(fleet)
    assert (found.job_id, found.state, found.pushes, found.windows_done) == (number, "done", 96, found.windows)
    assert found.result == "sealed 96 pushes" and found.ended_ms == fleet.clock.now_ms()
    assert sealed(fleet) == BILLED
    assert later(fleet).ended == 0
    deeds = "SELECT action, target, actor, reason, via FROM operator_actions WHERE actor = 'ann' ORDER BY action_id"
    assert fleet.rows(deeds) == [
        ("job_queue", str(number), "ann", "they were lost", "cli"),
        ("replay", "all organisations", "ann", "they were lost", "cli"),
    ]


def test_job_of_killed_tick_is_continued_after_lease(fleet: Fleet) -> None:
    job(fleet)
    chunks: list[Transaction] = []

    def third_chunk(effect: Transaction) -> bool:
        chunks.extend([effect] if effect.name == "replay" else [])
        return len(chunks) == 3

    up_to(fleet, do_jobs(fleet.context("dead")), third_chunk)
    (found,) = listed(fleet)
    assert found.state == "under_way" and 0 < found.windows_done < found.windows
    assert 0 < int(str(fleet.one("SELECT COUNT(*) FROM pushes WHERE window_ms >= :t", t=T0))) < 97
    assert turn(fleet, worker="w2").ended == 0, "whoever has it may be alive"
    assert later(fleet).ended == 1
    (found,) = listed(fleet)
    assert (found.state, found.pushes, found.result) == ("done", 96, "sealed 96 pushes")
    assert sealed(fleet) == BILLED
    assert fleet.one("SELECT COUNT(*) FROM replays") == 1, "it went on where it was"


def test_job_done_but_not_recorded_is_repeated_without_double_billing(fleet: Fleet) -> None:
    job(fleet)
    up_to(fleet, do_jobs(fleet.context("dead")), lambda effect: effect.name == "replay_backlog")
    assert sealed(fleet) == BILLED
    assert later(fleet).ended == 1
    assert [(one.state, one.pushes) for one in listed(fleet)] == [("done", 96)]
    assert sealed(fleet) == BILLED


def test_job_result_of_two_ticks_is_recorded_once(fleet: Fleet) -> None:
    """The first lies still for longer than its lease, just before it tells; the second one tells."""
    job(fleet)
    steps, held = do_jobs(fleet.context("slow")), []

    def ends(effect: Transaction) -> bool:
        held.extend([effect] if effect.name == "end_job" else [])
        return bool(held)

    up_to(fleet, steps, ends)
    assert later(fleet).ended == 1
    told = listed(fleet)
    answer = write(fleet.engine, held[0].work)
    with pytest.raises(StopIteration) as ended:
        while True:
            effect = steps.send(answer)
            assert isinstance(effect, Transaction)
            answer = write(fleet.engine, effect.work)
    assert ended.value.value.ended == 0 and listed(fleet) == told


@pytest.mark.both_databases
def test_taken_job_is_refused_to_second_worker_until_lease_ends(fleet: Fleet) -> None:
    job(fleet)
    job(fleet, ReplayJob(ReplayScope(("acme",)), T0, T0 + DAY_MS))
    now = fleet.clock.now_ms()
    first = write(fleet.engine, lambda c: queue.take(c, "w1", now))
    assert first is not None and first.job_id == 1
    assert write(fleet.engine, lambda c: queue.take(c, "w2", now)) is None, "one at a time, in their order"
    assert not write(fleet.engine, lambda c: queue.end(c, 1, "w2", "done", "", now))
    again = write(fleet.engine, lambda c: queue.take(c, "w2", now + queue.JOB_LEASE_MS))
    assert again is not None and again.job_id == 1


def test_job_out_of_time_continues_in_next_tick(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    job(fleet)
    monkeypatch.setattr(run_jobs, "TURN_MS", 12)
    turns = 1
    while later(fleet, clock=Moving(fleet)).ended == 0:
        turns += 1
        assert turns < 30 and listed(fleet)[0].state == "waiting"
    left = "96 pushes (960 units) are still to be settled"  # the next tick sends them
    assert turns > 1 and listed(fleet)[0].result in ("sealed 96 pushes", f"sealed 96 pushes; {left}")
    assert sealed(fleet) == BILLED


def test_job_out_of_time_is_continued_at_once_by_other_worker(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    job(fleet)
    monkeypatch.setattr(run_jobs, "TURN_MS", 12)
    assert turn(fleet, clock=Moving(fleet)).ended == 0
    assert 0 < listed(fleet)[0].windows_done < listed(fleet)[0].windows
    monkeypatch.undo()
    assert turn(fleet, worker="w2").ended == 1
    assert sealed(fleet) == BILLED


def test_replay_job_waits_for_manual_replay_of_same_windows(fleet: Fleet) -> None:
    job(fleet)
    die_after(fleet, planned(fleet), 2)
    assert turn(fleet).ended == 0
    (found,) = listed(fleet)
    assert found.state == "waiting" and "another replay of some of these windows is running" in found.result
    assert later(fleet).ended == 1
    assert sealed(fleet) == BILLED


@pytest.mark.parametrize("behind_ms", [2 * DAY_MS, WINDOW_MS])
def test_replay_job_of_windows_that_a_clock_has_not_closed_waits(fleet: Fleet, behind_ms: int) -> None:
    job(fleet)
    fleet.clock.at_ms -= behind_ms
    assert turn(fleet).ended == 0
    (found,) = listed(fleet)
    assert found.state == "waiting" and "Check both clocks" in found.result
    fleet.clock.at_ms += behind_ms
    assert turn(fleet).ended == 1
    assert sealed(fleet) == BILLED


@pytest.mark.parametrize(("behind_ms", "state"), [(2 * DAY_MS, "failed"), (WINDOW_MS, "waiting")])
def test_replay_job_fails_only_if_clocks_are_far_apart(fleet: Fleet, behind_ms: int, state: str) -> None:
    job(fleet)
    fleet.clock.at_ms -= behind_ms
    for _ in range(queue.MAX_TRIES + 1):
        turn(fleet)
    assert listed(fleet)[0].state == state and "Check both clocks" in listed(fleet)[0].result


def test_job_that_kills_ticks_fails_after_maximum_tries(fleet: Fleet) -> None:
    job(fleet)
    for _ in range(queue.MAX_TRIES):
        up_to(fleet, do_jobs(fleet.context("dead")), lambda effect: effect.name == "begin_replay")
        fleet.clock.at_ms += queue.JOB_LEASE_MS
    done = turn(fleet)
    assert done.ended == 1 and "could not finish the job" in done.failures[0]
    assert listed(fleet)[0].state == "failed"


def test_impossible_job_fails_with_a_reason_and_the_next_job_runs(fleet: Fleet) -> None:
    job(fleet, ReplayJob(ReplayScope(("acme",)), T0, END))
    job(fleet)
    fleet.write("UPDATE orgs SET floor_ms = :at WHERE org_id = 'acme'", {"at": T0 + DAY_MS})
    done = later(fleet)
    second, first = listed(fleet)
    assert (first.state, second.state, done.ended) == ("failed", "done", 2)
    assert "are closed for good" in first.result and first.result in done.failures[0]


def test_job_is_cancelled_only_while_waiting(fleet: Fleet) -> None:
    number = job(fleet)
    write(fleet.engine, lambda c: queue.cancel(c, number, fleet.by))
    assert later(fleet).ended == 0 and listed(fleet)[0].state == "cancelled"
    with pytest.raises(Refused, match="it is cancelled, and you can cancel a job only while it waits"):
        write(fleet.engine, lambda c: queue.cancel(c, number, fleet.by))
    with pytest.raises(UnknownId, match="unknown job 99"):
        write(fleet.engine, lambda c: queue.cancel(c, 99, fleet.by))
    taken = job(fleet)
    write(fleet.engine, lambda c: queue.take(c, "w1", fleet.clock.now_ms()))
    with pytest.raises(Refused, match="it is under way, and you can cancel"):
        write(fleet.engine, lambda c: queue.cancel(c, taken, fleet.by))


def test_duplicate_job_or_job_beyond_maximum_is_refused(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had no answer to their order, and gives it again, is told that it stands."""
    job(fleet)
    with pytest.raises(Refused, match="job 1, by ann, is waiting"):
        job(fleet)
    monkeypatch.setattr(queue, "MAX_OPEN_JOBS", 1)
    with pytest.raises(Refused, match="maximum of 1 open jobs"):
        job(fleet, ReplayJob(ReplayScope(("acme",)), T0, END))
    assert later(fleet).ended == 1
    assert job(fleet) == 2


def test_invalid_replay_job_is_refused(fleet: Fleet) -> None:
    many = tuple(map(str, range(MAX_JOB_ORGS + 1)))
    for scope, begins, ends, error, why in (
        (ReplayScope(("acmee",)), T0, END, UnknownId, "did you mean acme"),
        (ReplayScope(), END, T0, UsageError, "ends before it begins"),
        (ReplayScope(provider="autumn"), T0, END, Refused, "never billed an organisation"),
        (ReplayScope(many), T0, END, UsageError, "at most"),
    ):
        with pytest.raises(error, match=why):
            job(fleet, ReplayJob(scope, begins, ends))
    assert listed(fleet) == []


def test_tick_of_single_shard_runs_jobs_of_all_shards(fleet: Fleet) -> None:
    job(fleet)
    assert later(fleet, shard=Shard(0, 0)).ended == 1
    assert sealed(fleet) == BILLED


def test_manual_change_of_job_rows_is_refused(fleet: Fleet) -> None:
    job(fleet)
    for change in ("DELETE FROM jobs", "UPDATE jobs SET reason = 'other'", "UPDATE jobs SET payload = '{}'"):
        with pytest.raises(sa.exc.DBAPIError):
            fleet.write(change)
    later(fleet)
    with pytest.raises(sa.exc.DBAPIError):
        fleet.write("UPDATE jobs SET state = 'waiting'")
    with pytest.raises(sa.exc.DBAPIError):
        fleet.write("UPDATE jobs SET said = 'other'")


def test_tick_report_counts_ended_and_waiting_jobs(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (fleet.tick_windows(1).jobs_ended, fleet.tick_windows(1).jobs_wait) == (0, False)
    job(fleet)
    monkeypatch.setattr(run_jobs, "MAX_A_TICK", 0)
    report = fleet.tick_windows(1)
    assert (report.jobs_ended, report.jobs_wait, report.exit_status) == (0, True, 75)
    monkeypatch.undo()
    report = fleet.tick_windows(1)
    assert (report.jobs_ended, report.jobs_wait, report.failures, report.exit_status) == (1, False, [], 0)
    job(fleet, ReplayJob(ReplayScope(("acme",)), T0, END))
    fleet.write("UPDATE orgs SET floor_ms = :at WHERE org_id = 'acme'", {"at": T0 + DAY_MS})
    report = fleet.tick_windows(1)
    assert report.jobs_ended == 1 and "closed for good" in report.problems[0] and report.exit_status == 1


def test_job_with_hostile_texts_stores_texts_unchanged(fleet: Fleet) -> None:
    odd = "<b>\"'&/../?x=1#; DROP TABLE jobs; --"
    fleet.assign(odd, from_ms=T0)
    fleet.sample(odd, T0 + 7)
    fleet.tick_windows(1)
    by = By(fleet.clock.now_ms(), odd, "=HYPERLINK(1)", "cli")
    write(fleet.engine, lambda c: queue.place(c, ReplayJob(ReplayScope((odd,)), T0, END), by))
    assert later(fleet) == JobsDone(1, [])
    (found,) = listed(fleet)
    assert (found.actor, found.reason, found.command[1]) == (odd, "=HYPERLINK(1)", odd)
    details = fleet.one("SELECT details FROM operator_actions WHERE action = 'job_queue'")
    assert json.loads(str(details))["kind"] == "replay"


def test_job_lease_is_shorter_than_tick_interval() -> None:
    assert queue.JOB_LEASE_MS < 5 * MINUTE_MS
