"""`verify` goes by the order in which things were written: two workers' clocks, minutes apart, break no invariant."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Duplicate, Outcome, Rejected
from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import Push, Steps, Transaction
from drawdown.worker.push.actions import void
from drawdown.worker.push.push import Pushed, push
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.verifying import verified
from tests.world import T0, Fleet

APART_MS = 3 * MINUTE_MS
KEY = f"usage:acme:{T0}:compute_1gb"


class Worker:
    """One worker's push, an effect at a time, by a clock of its own."""

    def __init__(self, fleet: Fleet, clock: FixedClock, name: str) -> None:
        self._fleet = fleet
        self._clock = clock
        can = {"fake": fleet.providers["fake"].capabilities}
        self._steps: Steps[Pushed] = push(Context(name, clock, can), "fake")
        self._effect: Any = next(self._steps)

    def until_sent(self) -> None:
        """Go on until a batch is on its way."""
        while not isinstance(self._effect, Push):
            self._go_on(self._done())

    def answered(self, outcome: Outcome) -> None:
        """The answer comes, and is written down."""
        self._go_on(dict.fromkeys(range(len(self._effect.batch)), outcome))
        assert self._effect.name == "settle"
        self._done()

    def _done(self) -> Any:
        assert isinstance(self._effect, Transaction)
        return write(self._fleet.engine, self._effect.work)

    def _go_on(self, answer: Any) -> None:
        self._effect = self._steps.send(answer)


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """One push is due, and a provider whose duplicates prove nothing."""
    can = capabilities(duplicate_proves_delivery=False, lookup_lag_ms=0)
    made = Fleet(engine, extra={"fake": FakeProvider(can)})
    made.assign("acme", provider="fake", from_ms=T0)
    made.sample("acme", T0 + 1)
    made.write(
        "INSERT INTO provider_states (provider, paused_ms, paused_reason) VALUES ('fake', 0, 'a test') "
        "ON CONFLICT (provider) DO UPDATE SET paused_ms = 0"
    )
    made.tick_windows(2)
    made.write("UPDATE provider_states SET paused_ms = NULL")
    assert made.pushes() == [("acme", T0, "compute_1gb", 0, 60, "due")]
    return made


def test_late_answer_by_slow_clock_is_not_reported_as_resend(fleet: Fleet) -> None:
    """The claim passes on, the second worker sends, and only then is the first one's answer written."""
    slow = FixedClock(fleet.clock.at_ms)
    first = Worker(fleet, slow, "slow")
    first.until_sent()
    slow.at_ms += LEASE_MS
    second = Worker(fleet, FixedClock(slow.at_ms + APART_MS), "quick")
    second.until_sent()
    first.answered(Duplicate())
    started, finished = (
        fleet.one("SELECT MAX(started_ms) FROM attempts"),
        fleet.one("SELECT MAX(finished_ms) FROM attempts"),
    )
    assert int(str(started)) > int(str(finished))
    assert verified(fleet).breaches == []


def test_resend_of_push_in_doubt_with_clock_behind_is_found(fleet: Fleet) -> None:
    quick = FixedClock(fleet.clock.at_ms + APART_MS)
    first = Worker(fleet, quick, "quick")
    first.until_sent()
    first.answered(Duplicate())
    fleet.write("UPDATE pushes SET state = 'due', due_at_ms = :now", {"now": fleet.clock.at_ms})
    Worker(fleet, fleet.clock, "slow").until_sent()  # its attempt is dated before the answer
    assert dict(verified(fleet).by_invariant) == {6: 1}


def test_void_by_slow_clock_is_not_reported_as_send_after_void(fleet: Fleet) -> None:
    quick = FixedClock(fleet.clock.at_ms + APART_MS)
    worker = Worker(fleet, quick, "quick")
    worker.until_sent()
    worker.answered(Rejected("no such meter"))
    slow = By(fleet.clock.at_ms, "test", "a test")
    write(fleet.engine, lambda c: void(c, [KEY], slow, "the provider has no such event"))
    assert fleet.one("SELECT MAX(at_ms) FROM voids") == fleet.clock.at_ms
    assert int(str(fleet.one("SELECT started_ms FROM attempts"))) > fleet.clock.at_ms
    assert verified(fleet).breaches == []
