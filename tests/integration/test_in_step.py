"""Several that ask, read and write about the same organisations at once: each ends, and keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.provider.actions import set_when_down
from drawdown.worker.verdict.project import Projected, project
from drawdown.worker.verdict.refresh_requests import MOST_READS, mark_for_projection
from drawdown.worker.verdict.watch_state import note_round
from drawdown.worker.watch import ROUND_MS
from tests.fake_provider import capabilities
from tests.prepaid import CREDIT as A_SECOND
from tests.prepaid import Moving, Prepaid, look
from tests.world import T0, Fleet

CREDIT = {"org-1": 1, "org-2": 2, "org-3": 3}
"""In the order in which they are read."""


def fleet_of(engine: sa.Engine, provider: Prepaid) -> Fleet:
    """Organisations that were read once, and are asked about."""
    fleet = Fleet(engine, Moving(T0), extra={"fake": provider})
    fleet.assign(*CREDIT, provider="fake", from_ms=T0 - 10 * WINDOW_MS)
    fleet.tick(T0 + SECOND_MS)
    provider.asked.clear()
    ask(fleet, *CREDIT)
    return fleet


def ask(fleet: Fleet, *orgs: str, ahead_ms: int = 0) -> None:
    write(fleet.engine, lambda c: mark_for_projection(c, orgs, fleet.clock.now_ms() + ahead_ms))


def one_round(fleet: Fleet, worker: str = "tick") -> Projected:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(project(fleet.context(worker), "fake"), world)


def at_each_read(provider: Prepaid, work: Callable[[], None]) -> None:
    """Have this done while each answer is on its way, unless no end is in sight."""

    def done() -> None:
        if len(provider.asked) < 40:
            work()
            provider.meanwhile = done

    provider.meanwhile = done


@pytest.mark.parametrize("at_once", [1, 64])
def test_org_requested_repeatedly_does_not_delay_other_orgs(engine: sa.Engine, at_once: int) -> None:
    provider = Prepaid(capabilities(in_flight=at_once), credit=CREDIT)
    fleet = fleet_of(engine, provider)
    at_each_read(provider, lambda: ask(fleet, "org-1"))
    one_round(fleet)
    assert sorted(provider.asked) == [*["org-1"] * MOST_READS, "org-2", "org-3"]
    left = fleet.rows("SELECT org_id FROM orgs WHERE projection_due_ms IS NOT NULL")
    assert left == [("org-1",)], "the next round answers what was asked last"


def test_org_read_failure_does_not_end_projection_round(engine: sa.Engine) -> None:
    """It is due again a minute later, before all others: they are read in this round all the same, and it is not."""
    provider = Prepaid(capabilities(in_flight=1), credit=CREDIT, unread={"org-1"})
    fleet = fleet_of(engine, provider)

    def takes_long() -> None:
        fleet.clock.at_ms += MINUTE_MS

    at_each_read(provider, takes_long)
    done = one_round(fleet)
    assert (provider.asked, done.failed) == (["org-1", "org-2", "org-3"], 1)


@pytest.mark.both_databases
def test_read_overtaken_by_failed_read_is_repeated_immediately(engine: sa.Engine) -> None:
    """What failed halts whom nobody could read for long, and is asked again in a minute: that is no answer."""
    provider = Prepaid(capabilities(), credit={org: few * 1_000 * A_SECOND for org, few in CREDIT.items()})
    fleet = fleet_of(engine, provider)
    write(engine, lambda c: set_when_down(c, "fake", "", "stop", fleet.by))
    write(engine, lambda c: note_round(c, fleet.clock.now_ms()))
    fleet.write(f"UPDATE orgs SET unread_since_ms = {T0 - DAY_MS} WHERE org_id = 'org-1'")

    def fails() -> None:
        provider.down = "503"
        server = Thread(target=one_round, args=(fleet, "server"))
        server.start()
        server.join()
        provider.down = None
        assert fleet.rows("SELECT org_id FROM orgs WHERE is_halted") == [("org-1",)]

    provider.meanwhile = fails
    one_round(fleet)
    assert fleet.rows("SELECT is_halted, projection_due_ms FROM orgs WHERE org_id = 'org-1'") == [(False, None)]


@pytest.mark.parametrize("ahead_ms", [0, 30 * SECOND_MS])
def test_refresh_request_with_clock_ahead_does_not_delay_reads(engine: sa.Engine, ahead_ms: int) -> None:
    """A server there has runs go on, and asks every ten seconds; a tick here reads once its clock has come so far."""
    provider = Prepaid(capabilities(), credit=CREDIT)
    fleet = fleet_of(engine, provider)
    one_round(fleet)
    provider.asked.clear()
    reads = []
    for _ in range(12):
        ask(fleet, "org-1", ahead_ms=ahead_ms)
        fleet.clock.at_ms += 10 * SECOND_MS
        one_round(fleet)
        reads.append(len(provider.asked))
    assert reads[3] >= 1 and reads[-1] >= 3


def test_refresh_request_during_read_keeps_own_due_time(engine: sa.Engine) -> None:
    """And not since the first of all that were answered: who is asked about without end is read all the time."""
    provider = Prepaid(capabilities(), credit=CREDIT)
    fleet = fleet_of(engine, provider)
    at_each_read(provider, lambda: ask(fleet, "org-1"))
    for _ in range(3):
        fleet.clock.at_ms += MINUTE_MS
        one_round(fleet)
    since_ms = fleet.one("SELECT MIN(projection_due_ms) FROM orgs")
    assert fleet.clock.at_ms - SECOND_MS < int(str(since_ms)) <= fleet.clock.at_ms


def test_halted_orgs_at_slow_provider_are_each_read_in_turn(engine: sa.Engine) -> None:
    """The watch asks about them in each round, which has time for one: also about who owes least, and may have paid."""
    provider = Prepaid(capabilities(in_flight=1), credit={"org-1": -3, "org-2": -2, "org-3": -1})
    fleet = fleet_of(engine, provider)
    one_round(fleet)
    assert fleet.one("SELECT COUNT(*) FROM orgs WHERE is_halted") == len(CREDIT)
    provider.asked.clear()

    def takes_long() -> None:
        fleet.clock.at_ms += ROUND_MS

    at_each_read(provider, takes_long)
    for _ in CREDIT:
        look(fleet)
    assert sorted(provider.asked) == list(CREDIT)
