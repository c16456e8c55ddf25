"""Jobs that need a provider: terms are accepted, and organisations assigned; once, whatever dies in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import CustomerRead, NoCustomer, ReadFailed
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS, next_window, window_of
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import AcceptJob, AssignJob
from drawdown.worker.jobs.run_jobs import do_jobs
from drawdown.worker.orgs.assignments import assign, cancel
from drawdown.worker.provider import actions as providers
from drawdown.worker.topup import actions as topups
from tests.fake_payments import CAN
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_jobs import job, later, listed, up_to
from tests.integration.topping import TERMS
from tests.world import T0, Fleet

TO_FAKE = AssignJob("acme", "fake", "cus_1")


@pytest.fixture
def fake() -> FakeProvider:
    return FakeProvider(capabilities())


@pytest.fixture
def fleet(engine: sa.Engine, fake: FakeProvider) -> Fleet:
    """One organisation here, and one at the provider, which is paused: what is used there waits."""
    fleet = Fleet(engine, extra={"fake": fake})
    fleet.assign("acme", from_ms=T0)
    fleet.assign("globex", provider="fake", from_ms=T0)
    fleet.tick_windows(1)
    write(engine, lambda c: providers.pause(c, "fake", fleet.by))
    for window in range(3):
        fleet.sample("globex", T0 + window * WINDOW_MS + 1)
    fleet.tick_windows(4)
    return fleet


Meanwhile: TypeAlias = Callable[[Callable[[], object]], list[list[tuple[object, ...]]]]


@pytest.fixture
def meanwhile(fleet: Fleet, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Lets a person act while the provider is read. Its result gets the assignments of acme after that."""

    fleet.clock.at_ms += 1  # a window has begun

    def begin(act: Callable[[], object]) -> list[list[tuple[object, ...]]]:
        read_them, found = fake.customers, list[list[tuple[object, ...]]]()

        async def customers(customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
            if not found:
                act()
                found.append(billers(fleet))
            return await read_them(customer_ids)

        monkeypatch.setattr(fake, "customers", customers)
        return found

    return begin


def changed(fleet: Fleet, fake: FakeProvider) -> AcceptJob:
    fake.capabilities = replace(fake.capabilities, unit=60)
    return AcceptJob("fake", providers.terms_of(fake.capabilities))


def in_force(fleet: Fleet) -> str | None:
    return read(fleet.engine, lambda c: providers.terms_in_force(c, "fake"))


def schedule(fleet: Fleet, org: str, customer: str, from_ms: int, provider: str = "fake") -> None:
    write(fleet.engine, lambda c: assign(c, [org], provider, fleet.by, customer_id=customer, from_ms=from_ms))


def billers(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT provider, customer_id FROM assignments WHERE org_id = 'acme' ORDER BY start_ms")


def test_accept_job_applies_changed_provider_terms(fleet: Fleet, fake: FakeProvider) -> None:
    asked = changed(fleet, fake)
    job(fleet, asked)
    assert later(fleet).ended == 1
    assert (listed(fleet)[0].state, in_force(fleet)) == ("done", asked.terms)
    assert fleet.one("SELECT COUNT(*) FROM voids") == 3
    with pytest.raises(Refused, match="have not changed"):
        job(fleet, asked)


def test_interrupted_job_continues_and_finished_job_is_not_repeated(
    fleet: Fleet, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "CHUNK", 1)
    asked, seen = changed(fleet, fake), []
    job(fleet, asked)

    def second(effect: object) -> bool:
        seen.extend([effect] if getattr(effect, "name", "") == "accept_terms" else [])
        return len(seen) == 2

    up_to(fleet, do_jobs(fleet.context("dead")), second)
    assert fleet.one("SELECT COUNT(*) FROM voids") == 1 and in_force(fleet) != asked.terms
    fleet.clock.at_ms += WINDOW_MS
    up_to(fleet, do_jobs(fleet.context("dead too")), lambda effect: effect.name == "end_job")
    assert fleet.one("SELECT COUNT(*) FROM voids") == 3 and in_force(fleet) == asked.terms
    assert later(fleet).ended == 1 and listed(fleet)[0].state == "done"
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'provider_accept'") == 1


def test_accept_job_for_outdated_terms_fails(fleet: Fleet, fake: FakeProvider) -> None:
    job(fleet, changed(fleet, fake))
    fake.capabilities = replace(fake.capabilities, unit=3600)
    assert "differ from those that were accepted" in later(fleet).failures[0]
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0


def test_assign_job_repeated_after_dead_tick_assigns_once(fleet: Fleet) -> None:
    job(fleet, TO_FAKE)
    up_to(fleet, do_jobs(fleet.context("dead")), lambda effect: effect.name == "end_job")
    assert billers(fleet) == [("embedded", "acme"), ("fake", "cus_1")]
    assert later(fleet).ended == 1
    assert listed(fleet)[0].result == "acme is already assigned to fake as cus_1"
    assert len(billers(fleet)) == 2


def test_assign_job_before_scheduled_start_at_same_provider_begins_now(fleet: Fleet) -> None:
    fleet.sample("hooli", T0 + 1)
    scheduled_ms = T0 + DAY_MS
    to_fake = replace(TO_FAKE, org_id="hooli", customer_id=None)
    schedule(fleet, "hooli", "cus_1", scheduled_ms)
    job(fleet, to_fake)
    with pytest.raises(Refused, match="already queued"):
        job(fleet, to_fake)
    up_to(fleet, do_jobs(fleet.context("dead")), lambda effect: effect.name == "end_job")
    begun = "SELECT start_ms FROM assignments WHERE org_id = 'hooli' ORDER BY start_ms"
    placed_ms = int(str(fleet.one("SELECT at_ms FROM jobs")))
    assert fleet.rows(begun) == [(next_window(placed_ms),), (scheduled_ms,)]
    assert later(fleet).ended == 1
    assert (listed(fleet)[0].state, listed(fleet)[0].result) == ("done", "hooli is already assigned to fake as cus_1")
    with pytest.raises(Refused, match="already has this assignment"):
        job(fleet, to_fake)


def test_assign_job_with_scheduled_start_that_begins_while_queued_is_done(fleet: Fleet) -> None:
    scheduled_ms = fleet.clock.at_ms + 3 * WINDOW_MS
    schedule(fleet, "hooli", "cus_1", scheduled_ms)
    with pytest.raises(Refused, match="already has this assignment, from 2026-01-01T00:40:00Z on"):
        job(fleet, replace(TO_FAKE, org_id="hooli"))
    job(fleet, replace(TO_FAKE, org_id="hooli", customer_id=None))
    fleet.clock.at_ms = scheduled_ms
    assert later(fleet).failures == []
    assert listed(fleet)[0].result == "hooli is already assigned to fake as cus_1"
    assert fleet.one("SELECT COUNT(*) FROM assignments WHERE org_id = 'hooli'") == 1


def test_assign_job_for_customer_of_scheduled_move_repeated_names_it_once(fleet: Fleet) -> None:
    scheduled_ms = fleet.clock.at_ms + DAY_MS - fleet.clock.at_ms % DAY_MS
    schedule(fleet, "acme", "", scheduled_ms)
    job(fleet, TO_FAKE)
    up_to(fleet, do_jobs(fleet.context("dead")), lambda effect: effect.name == "end_job")
    assert billers(fleet) == [("embedded", "acme"), ("fake", "cus_1")]
    assert later(fleet).failures == []
    assert (listed(fleet)[0].state, len(billers(fleet))) == ("done", 2)


def test_assign_job_before_start_scheduled_since_fails(fleet: Fleet) -> None:
    job(fleet, TO_FAKE)
    scheduled_ms = fleet.clock.at_ms + DAY_MS - fleet.clock.at_ms % DAY_MS
    schedule(fleet, "acme", "cus_1", scheduled_ms)
    assert "its assignment changed since" in later(fleet).failures[0]


def test_assign_job_tells_that_topups_of_former_wallet_pause(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: topups.set_terms(c, "acme", TERMS, CAN, fleet.by, new=True))
    job(fleet, TO_FAKE)
    assert later(fleet).failures == []
    assert "does not pay for an organisation from then on: its automatic top-ups pause" in listed(fleet)[0].result


def test_assign_job_for_unknown_customer_fails(fleet: Fleet, fake: FakeProvider) -> None:
    fake.states["cus_1"] = NoCustomer()
    job(fleet, TO_FAKE)
    assert "the customer cus_1 does not exist at fake" in later(fleet).failures[0]
    assert billers(fleet) == [("embedded", "acme")]


def test_assign_job_for_unreachable_provider_fails_after_retries(fleet: Fleet, fake: FakeProvider) -> None:
    fake.states["cus_1"] = ReadFailed("503")
    job(fleet, TO_FAKE)
    for _ in range(queue.MAX_TRIES):
        assert later(fleet).ended == 0
        assert (listed(fleet)[0].state, "503" in listed(fleet)[0].result) == ("waiting", True)
    failed = later(fleet)
    assert failed.ended == 1 and "503" in failed.failures[0] and listed(fleet)[0].state == "failed"


def test_assign_job_after_manual_assignment_fails(fleet: Fleet) -> None:
    job(fleet, TO_FAKE)
    fleet.assign("acme", provider="none")
    assert "its assignment changed since" in later(fleet).failures[0]
    assert billers(fleet)[-1] == ("none", "acme")


def assigns(customer: str, provider: str = "fake") -> Callable[[Fleet], object]:
    """A person's own command, from the window on in which it is given."""
    return lambda fleet: schedule(fleet, "acme", customer, window_of(fleet.clock.at_ms), provider)


def moves_tomorrow(fleet: Fleet) -> None:
    schedule(fleet, "acme", "cus_9", T0 + DAY_MS)


def undoes(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: cancel(c, "acme", fleet.by))


FROM_TOMORROW = replace(TO_FAKE, from_ms=T0 + DAY_MS)


@pytest.mark.parametrize(
    ("before", "asked", "change"),
    [
        (assigns(""), TO_FAKE, assigns("cus_2")),
        (moves_tomorrow, FROM_TOMORROW, undoes),
        (None, TO_FAKE, assigns("cus_2")),
        (None, FROM_TOMORROW, assigns("acme", "none")),
    ],
    ids=["named another customer", "undid a move", "moved it before", "moved it elsewhere before"],
)
def test_assign_job_fails_if_person_assigns_while_provider_is_read(
    fleet: Fleet, meanwhile: Meanwhile, before: Callable[[Fleet], object] | None, asked: AssignJob,
    change: Callable[[Fleet], object],
) -> None:  # fmt: skip
    if before is not None:
        before(fleet)
    job(fleet, asked)
    found = meanwhile(lambda: change(fleet))
    (failure,) = later(fleet).failures
    assert "acme: its assignment changed since the job was queued" in failure
    assert (listed(fleet)[0].state, billers(fleet)) == ("failed", found[0])


@pytest.mark.parametrize("named", [True, False])
def test_assign_job_is_done_if_person_assigns_so_while_provider_is_read(
    fleet: Fleet, meanwhile: Meanwhile, named: bool
) -> None:
    job(fleet, TO_FAKE if named else replace(TO_FAKE, customer_id=None))
    found = meanwhile(lambda: assigns("cus_1")(fleet))
    assert later(fleet).failures == []
    assert "acme is already assigned to fake as cus_1" in listed(fleet)[0].result
    assert (listed(fleet)[0].state, billers(fleet)) == ("done", found[0])
