"""Usage that a provider took nothing of, for want of credit: billed again once a read shows credit, and once only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import (
    HOUR_MS,
    CustomerState,
    FoundPush,
    PushRefused,
    Queued,
    ReadFailed,
    Rejected,
    Unknown,
)
from drawdown.schema.database import read, write
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.push import void
from drawdown.worker.push.actions import Chosen
from drawdown.worker.push.outcome import CREDIT_WAIT_MS
from drawdown.worker.push.void import MAY_ARRIVE_MS
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.seal import stops
from drawdown.worker.status.status import status
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.wallets.actions import grant
from tests.fake_provider import FakeProvider
from tests.integration.providing import ASKED, KEY, clean, fleet_of
from tests.world import T0, Fleet

NONE = CustomerState(0, None, None)
SOME = CustomerState(10**9, None, None)
NO_CREDIT = Rejected("no credit", until_credit=True)
SEALED = T0 + 2 * WINDOW_MS
"""When the first window is sealed, and refused."""


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """A push that waits for credit; no read since."""
    made, provider = fleet_of(engine)
    provider.states["acme"] = NONE
    provider.answers[KEY] = NO_CREDIT
    made.tick(SEALED)
    assert revisions(made) == [(0, "rejected")]
    return made


def fake(fleet: Fleet) -> FakeProvider:
    provider = fleet.extra["fake"]
    assert isinstance(provider, FakeProvider)
    return provider


def revisions(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT revision, state FROM pushes WHERE org_id = 'acme' ORDER BY window_ms, revision")


def asks(fleet: Fleet) -> None:
    """The next tick reads the customer."""
    fleet.write("UPDATE orgs SET projection_due_ms = 0, refresh_requests = refresh_requests + 1 WHERE org_id = 'acme'")


def reads(fleet: Fleet, at_ms: int, state: CustomerState | ReadFailed = SOME) -> None:
    """A tick in which the customer is read, which comes after what is billed again."""
    fake(fleet).states["acme"] = state
    asks(fleet)
    fleet.tick(at_ms)


LATER = SEALED + CREDIT_WAIT_MS
BILLED = [(0, "voided"), (1, "accepted")]
WAITS = [(0, "rejected")]


def test_push_awaiting_credit_stays_rejected_while_balance_is_zero(fleet: Fleet) -> None:
    for number in range(1, 9):
        reads(fleet, SEALED + number * WINDOW_MS, NONE)
    assert revisions(fleet) == WAITS and len(fake(fleet).seen) == 1
    clean(fleet)


def test_push_awaiting_credit_is_billed_once_after_read_shows_credit(fleet: Fleet) -> None:
    reads(fleet, LATER)
    assert revisions(fleet) == WAITS, "this tick read it"
    for number in range(1, 6):
        fleet.tick(LATER + number * WINDOW_MS)
    assert revisions(fleet) == BILLED
    assert [push.key for push in fake(fleet).seen] == [KEY, f"{KEY}:r1"], "the first key is taken at the provider"
    assert [(push.key, push.quantity) for push in fake(fleet).charged.values()] == [(f"{KEY}:r1", 60)]
    said = fleet.rows("SELECT evidence, evidence_kind, actor, reason FROM voids")
    assert said == [("no credit", "rejected", "drawdown", "the customer has credit again")]
    clean(fleet)


def test_push_awaiting_credit_of_unlimited_customer_is_billed(fleet: Fleet) -> None:
    reads(fleet, LATER, CustomerState(None, None, None))
    fleet.tick(LATER + WINDOW_MS)
    assert revisions(fleet) == BILLED


def test_push_awaiting_credit_of_refused_feature_stays_rejected(fleet: Fleet) -> None:
    """Other features can draw on the balance; this one would be refused again under each new key."""
    feature = str(fleet.one("SELECT feature FROM pushes"))
    for number in range(1, 4):
        reads(fleet, LATER + number * CREDIT_WAIT_MS, replace(SOME, refused=frozenset({feature, "other"})))
    assert revisions(fleet) == WAITS
    reads(fleet, LATER + 4 * CREDIT_WAIT_MS, replace(SOME, refused=frozenset({"other", f"{feature}_more"})))
    fleet.tick(LATER + 5 * CREDIT_WAIT_MS)
    assert revisions(fleet) == BILLED


def test_push_awaiting_credit_ignores_read_before_refusal(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine)
    provider.answers[KEY] = NO_CREDIT
    reads(fleet, T0)
    fleet.write("UPDATE orgs SET projection_due_ms = NULL")
    fleet.tick(SEALED)
    read_ms, settled_ms = fleet.rows("SELECT o.projection_read_ms, p.settled_ms FROM orgs o, pushes p")[0]
    assert revisions(fleet) == WAITS and int(str(read_ms)) <= int(str(settled_ms)) == SEALED
    fleet.write("UPDATE orgs SET projection_due_ms = NULL, unread_since_ms = NULL")
    fleet.tick(LATER)
    assert revisions(fleet) == WAITS


def test_push_awaiting_credit_after_failed_read_is_not_retried(fleet: Fleet) -> None:
    reads(fleet, SEALED + MINUTE_MS)
    reads(fleet, SEALED + 2 * MINUTE_MS, ReadFailed("503"))
    fleet.tick(LATER)
    assert revisions(fleet) == WAITS
    reads(fleet, LATER + WINDOW_MS)
    fleet.tick(LATER + 2 * WINDOW_MS)
    assert revisions(fleet) == BILLED


def test_push_awaiting_credit_is_retried_after_five_minutes(fleet: Fleet) -> None:
    reads(fleet, SEALED + MINUTE_MS)
    fleet.tick(LATER - 1)
    assert revisions(fleet) == WAITS
    fleet.tick(LATER)
    assert revisions(fleet) == BILLED


def test_push_awaiting_credit_doubles_wait_up_to_limit(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(void, "LONGEST_WAIT_MS", 4 * CREDIT_WAIT_MS + MINUTE_MS)
    provider, sent = fake(fleet), SEALED
    provider.answers |= {f"{KEY}:r{number}": NO_CREDIT for number in range(1, 6)}
    for number, minutes in enumerate((5, 10, 20, 21, 21), start=1):
        reads(fleet, sent + MINUTE_MS)
        sent += minutes * MINUTE_MS
        fleet.tick(sent - 1)
        assert len(provider.seen) == number, f"{minutes} minutes are not over"
        fleet.tick(sent)
        assert len(provider.seen) == number + 1
    clean(fleet)


def given_back(engine: sa.Engine, **changes: object) -> tuple[Fleet, FakeProvider]:
    """A minute that was billed and withdrawn; of the provider no push that gives back has a balance to go to."""
    fleet, provider = fleet_of(engine, negatives=True, **changes)
    provider.answers = {f"{KEY}:r{number}": NO_CREDIT for number in range(1, 2 * void.MOST_GIVE_BACKS)}
    fleet.tick(SEALED)
    write(engine, lambda c: withdraw(c, ["s1"], fleet.by))
    return fleet, provider


def test_refund_awaiting_credit_is_retried_up_to_limit(engine: sa.Engine) -> None:
    fleet, provider = given_back(engine)
    for number in range(1, 40):
        reads(fleet, SEALED + number * void.LONGEST_WAIT_MS)
    sent = [(push.quantity, push.key) for push in provider.seen[1:]]
    assert sent == [(-60, f"{KEY}:r{number}") for number in range(1, void.MOST_GIVE_BACKS + 1)]
    assert revisions(fleet)[-1] == (void.MOST_GIVE_BACKS, "rejected")
    clean(fleet)


def test_refund_found_with_zero_quantity_is_retried(engine: sa.Engine) -> None:
    fleet, provider = given_back(engine, **ASKED)
    provider.answers, provider.lookups = {f"{KEY}:r1": Queued(0)}, {f"{KEY}:r1": FoundPush(0)}
    for number in range(1, 6):
        reads(fleet, SEALED + number * HOUR_MS)
    assert revisions(fleet) == [(0, "accepted"), (1, "voided"), (2, "accepted")]
    assert sum(push.quantity for push in provider.charged.values()) == 0
    clean(fleet)


def test_push_rejected_for_missing_feature_is_not_retried(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine)
    provider.answers[KEY] = Rejected("no such feature")
    for number in range(4):
        reads(fleet, SEALED + number * WINDOW_MS)
    assert revisions(fleet) == WAITS


def test_push_refused_after_acceptance_is_not_retried(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine)
    fleet.tick(SEALED)
    assert revisions(fleet) == [(0, "accepted")]
    write(fleet.engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "no credit")], SEALED))
    assert fleet.one("SELECT due_at_ms > settled_ms FROM pushes"), "its time says when it may be voided"
    for number in range(1, 6):
        reads(fleet, SEALED + number * WINDOW_MS)
    assert revisions(fleet) == WAITS


def test_push_awaiting_credit_below_floor_is_not_retried(fleet: Fleet) -> None:
    fake(fleet).answers[f"usage:acme:{T0 + WINDOW_MS}:compute_1gb"] = NO_CREDIT
    fleet.sample("acme", T0 + WINDOW_MS + 1)
    fleet.tick(LATER)
    assert revisions(fleet) == 2 * WAITS
    fleet.write("UPDATE orgs SET floor_ms = :floor", {"floor": T0 + WINDOW_MS})
    reads(fleet, LATER + WINDOW_MS)
    fleet.tick(LATER + 2 * WINDOW_MS)
    assert revisions(fleet) == WAITS + BILLED, "what lies above it is billed all the same"


def test_push_awaiting_credit_of_stopped_org_waits_for_resume(fleet: Fleet) -> None:
    reads(fleet, LATER)
    about = {"org_id": "acme", "now_ms": LATER, "actor": "test"}
    write(fleet.engine, lambda c: stops.stop_org(c, reason="looked at", **about))  # type: ignore[arg-type]
    fleet.tick(LATER + WINDOW_MS)
    assert revisions(fleet) == WAITS
    write(fleet.engine, lambda c: stops.resume_org(c, reason="fixed", **about))  # type: ignore[arg-type]
    fleet.tick(LATER + 2 * WINDOW_MS)
    assert revisions(fleet) == BILLED
    clean(fleet)


def test_push_awaiting_credit_after_assignment_change_is_not_retried(fleet: Fleet) -> None:
    """The credit that is read is another provider's by then."""
    write(fleet.engine, lambda c: assign(c, ["acme"], "embedded", fleet.by, from_ms=LATER))
    write(fleet.engine, lambda c: grant(c, "acme", 10**9, fleet.by, key="paid", plan="free", new=True))
    for number in range(1, 5):
        asks(fleet)
        fleet.tick(LATER + number * WINDOW_MS)
    later = "o.projection_read_ms > p.settled_ms"
    shown = fleet.rows(f"SELECT o.billing_provider, o.balance_micro, {later} FROM orgs o, pushes p")
    assert shown == [("embedded", 10**9, True)]
    assert revisions(fleet) == WAITS


@pytest.mark.both_databases
def test_push_awaiting_credit_after_assignment_change_is_rejected(fleet: Fleet) -> None:
    """Its provider's credit is not read any more, so only a person can end the wait."""
    chosen = Chosen(None, ["rejected"], "", "", "")

    def shown(at_ms: int) -> tuple[int, int, list[str], list[str]]:
        left = fleet.tick(at_ms).left
        found = read(fleet.engine, lambda c: status(c, at_ms)).standing.unresolved
        retried = read(fleet.engine, lambda c: chosen.find(c, ["due", "rejected"]))
        return left.rejected, left.awaiting_credit, [one.state for one in found], retried

    assert shown(LATER) == (0, 1, ["awaiting_credit"], [])
    write(fleet.engine, lambda c: assign(c, ["acme"], "embedded", fleet.by, from_ms=LATER + WINDOW_MS))
    assert shown(LATER + WINDOW_MS) == (1, 0, ["rejected"], [KEY])


def test_push_awaiting_credit_after_move_and_return_waits_for_read(fleet: Fleet) -> None:
    """The last read before the return showed the credit of another provider."""
    write(fleet.engine, lambda c: assign(c, ["acme"], "embedded", fleet.by, from_ms=LATER))
    write(fleet.engine, lambda c: grant(c, "acme", 10**9, fleet.by, key="paid", plan="free", new=True))
    asks(fleet)
    fleet.tick(LATER)
    back_ms = LATER + WINDOW_MS
    write(fleet.engine, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id="acme", from_ms=back_ms))
    for number in range(3):
        fleet.tick(back_ms + number * WINDOW_MS)
    assert revisions(fleet) == WAITS, "its own provider showed no credit yet"
    for number in range(3, 6):
        reads(fleet, back_ms + number * WINDOW_MS)
    assert revisions(fleet) == BILLED
    assert [(push.key, push.quantity) for push in fake(fleet).charged.values()] == [(f"{KEY}:r1", 60)]
    clean(fleet)


@pytest.mark.both_databases
def test_push_awaiting_credit_after_customer_change_is_rejected(fleet: Fleet) -> None:
    """No read shows the credit of its former customer, so only a person can end the wait."""
    chosen = Chosen(None, ["rejected"], "", "", "")
    fake(fleet).states["acme-2"] = SOME
    write(fleet.engine, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id="acme-2", from_ms=LATER))
    for number in range(4):
        asks(fleet)
        left = fleet.tick(LATER + number * WINDOW_MS).left
    assert revisions(fleet) == WAITS and len(fake(fleet).seen) == 1
    assert (left.rejected, left.awaiting_credit) == (1, 0)
    assert read(fleet.engine, lambda c: chosen.find(c, ["due", "rejected"])) == [KEY]


def test_push_awaiting_credit_waits_for_unanswered_attempt(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine)
    fleet.sample("acme", T0 + WINDOW_MS + 1)
    provider.answers[KEY] = Unknown("cut")
    sent = SEALED + WINDOW_MS
    provider.answers[f"usage:acme:{T0 + WINDOW_MS}:compute_1gb"] = NO_CREDIT
    fleet.tick(sent)
    provider.answers[KEY] = NO_CREDIT
    fleet.tick(sent + MINUTE_MS)
    assert revisions(fleet) == 2 * WAITS and MAY_ARRIVE_MS > CREDIT_WAIT_MS + MINUTE_MS
    reads(fleet, sent + 2 * MINUTE_MS)
    fleet.tick(sent + MAY_ARRIVE_MS - 1)
    assert revisions(fleet) == WAITS + BILLED, "the other one is billed meanwhile"
    fleet.tick(sent + MAY_ARRIVE_MS)
    assert revisions(fleet) == 2 * BILLED
    clean(fleet)


def test_pushes_awaiting_credit_are_billed_in_single_tick(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(void, "MOST_AGAIN", 1)
    for window in (1, 2):
        fake(fleet).answers[f"usage:acme:{T0 + window * WINDOW_MS}:compute_1gb"] = NO_CREDIT
        fleet.sample("acme", T0 + window * WINDOW_MS + 1)
    at_ms = SEALED + 3 * WINDOW_MS
    fleet.tick(at_ms)
    assert revisions(fleet) == 3 * WAITS
    reads(fleet, at_ms + WINDOW_MS)
    fleet.tick(at_ms + 2 * WINDOW_MS)
    assert revisions(fleet) == 3 * BILLED
    clean(fleet)
