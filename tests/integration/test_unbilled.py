"""Usage that was taken and is not charged yet: guard, runs and balances take it off by themselves, without a watch."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.ledger.reservations import Denied, NotTogether
from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.actions import RequestedExecution
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Ask, Wish
from drawdown.worker.seal.seal import SealRequest, seal
from drawdown.worker.verdict import effective_balance
from drawdown.worker.wallets.accounts import account_of
from tests.integration.guarding import Guarded
from tests.integration.telling_events import event, mapped, told, withdrawn
from tests.world import T0, Fleet


@pytest.fixture
def guarded(engine: sa.Engine) -> Guarded:
    """`acme` has 5 credits; a render costs one, and so does an `idea`."""
    fleet = Fleet(engine)
    fleet.clock.at_ms = T0 + MINUTE_MS
    made = Guarded(engine, fleet)
    fleet.assign("acme", from_ms=T0)
    mapped(fleet)
    fleet.rate("render", MICRO)
    made.limit("idea", None)
    made.give("beta", 5)
    fleet.assign("beta", from_ms=T0)
    return made


def render(guarded: Guarded, quantity: int, event_id: str = "a", org: str = "beta", **more: Any) -> None:
    told(guarded.fleet, event(event_id, quantity, org_id=org, **more))


def available(guarded: Guarded, customer: str = "beta") -> tuple[int, int, int]:
    found = guarded.read(lambda c: account_of(c, customer, guarded.now))
    return found.available_micro, found.unbilled_micro, found.balance_micro


def run(guarded: Guarded, key: str, credits_: int, org: str = "beta") -> Any:
    request = Request(org, credits_ * MICRO)
    return guarded.write(lambda c: executions.accept(c, key, request, guarded.fleet.by))


def test_use_is_blocked_after_unsealed_usage_exhausts_credit(guarded: Guarded) -> None:
    assert guarded.consume("idea", org="beta", key="before").decision == "allow"
    render(guarded, 100)
    assert (guarded.check("idea", org="beta").decision, guarded.check("idea", org="beta").reason) == (
        "block", "no_credit",
    )  # fmt: skip
    found = guarded.consume("idea", org="beta", key="after")
    assert (found.decision, found.reason) == ("block", "no_credit")
    assert guarded.reserve("idea", org="beta").decision == "block"
    assert guarded.wallet("beta") == (4 * MICRO, 0), "nothing was charged, and nothing is held"
    assert guarded.consume("idea", org="acme").decision == "allow", "another customer's usage is its own"


def test_use_beside_unbilled_usage_is_allowed_up_to_last_unit(guarded: Guarded) -> None:
    render(guarded, 3)
    assert available(guarded) == (2 * MICRO, 3 * MICRO, 5 * MICRO)
    assert [guarded.consume("idea", org="beta").decision for _ in range(3)] == ["allow", "allow", "block"]
    assert available(guarded) == (0, 3 * MICRO, 3 * MICRO)
    guarded.fleet.tick(T0 + 2 * WINDOW_MS)
    assert available(guarded) == (0, 0, 0), "what was unbilled is charged, and taken off once"
    guarded.prove()


def test_execution_beside_unbilled_usage_is_limited_by_balance(guarded: Guarded) -> None:
    render(guarded, 3)
    found = guarded.read(lambda c: executions.preview(c, Request("beta", 3 * MICRO), guarded.now))
    assert (found.allowed, found.code, found.available_micro) == (False, "no_credit", 2 * MICRO)
    with pytest.raises(Denied, match="usage of 3 is not charged yet"):
        run(guarded, "r1", 3)
    accepted = run(guarded, "r2", 1)
    assert accepted.wallet.available_micro == MICRO
    with pytest.raises(Denied) as refused:
        guarded.write(lambda c: executions.extend(c, "r2", 3 * MICRO, None, guarded.fleet.by))
    assert refused.value.code == "no_credit"
    guarded.write(lambda c: executions.extend(c, "r2", 2 * MICRO, None, guarded.fleet.by))


def test_executions_accepted_together_are_limited_by_unbilled_usage(guarded: Guarded) -> None:
    render(guarded, 3)

    def asked(*keys: str) -> list[RequestedExecution]:
        return [RequestedExecution(key, Request("beta", MICRO), guarded.fleet.by.actor, "a test") for key in keys]

    with pytest.raises(NotTogether):
        guarded.write(lambda c: executions.accept_together(c, asked("a", "b", "c"), guarded.now))
    guarded.write(lambda c: executions.accept_together(c, asked("a", "b"), guarded.now))


def test_unbilled_usage_is_deducted_until_its_push_is_charged(guarded: Guarded) -> None:
    render(guarded, 3)
    fleet = guarded.fleet
    fleet.clock.at_ms = T0 + 2 * WINDOW_MS
    request = SealRequest(Shard(), T0 + WINDOW_MS, guarded.now, fleet.context().declared())
    write(fleet.engine, lambda c: seal(c, request))
    assert len(fleet.pushes()) == 1
    assert available(guarded) == (2 * MICRO, 3 * MICRO, 5 * MICRO)
    assert guarded.check("idea", 3, org="beta").decision == "block"
    fleet.tick()
    assert available(guarded) == (2 * MICRO, 0, 2 * MICRO)


def test_withdrawn_usage_is_available_only_after_settlement(guarded: Guarded) -> None:
    render(guarded, 5)
    fleet = guarded.fleet
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert available(guarded)[0] == 0
    withdrawn(fleet, "a")
    assert available(guarded)[0] == 0
    fleet.tick(T0 + 3 * WINDOW_MS)
    assert available(guarded)[0] == 5 * MICRO
    guarded.prove()


def test_unbilled_sum_of_many_samples_is_cached_until_seal(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effective_balance, "MOST_SAMPLES", 2)
    render(guarded, 1)
    render(guarded, 1, "b")
    assert available(guarded)[1] == 2 * MICRO
    render(guarded, 1, "c")
    guarded.later(effective_balance.KEPT_MS - 1)
    assert available(guarded)[1] == 2 * MICRO
    guarded.later(1)
    assert available(guarded)[1] == 3 * MICRO
    guarded.fleet.tick(T0 + 2 * WINDOW_MS)
    render(guarded, 2, "d", occurred_ms=guarded.now)
    render(guarded, 2, "e", occurred_ms=guarded.now)
    assert available(guarded) == (-2 * MICRO, 4 * MICRO, 2 * MICRO)


def test_unbilled_sums_cache_is_bounded(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effective_balance, "MOST_SAMPLES", 0)
    monkeypatch.setattr(effective_balance, "MOST_KEPT", 2)
    for number in range(5):
        guarded.write(lambda c: effective_balance.unbilled_micro(c, f"c-{number}", guarded.now))  # noqa: B023
    assert list(effective_balance._FOUND[guarded.fleet.engine]) == ["c-3", "c-4"]


def test_unbilled_usage_is_read_once_per_transaction(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    render(guarded, 2)
    times: list[str] = []
    kept = effective_balance._read

    def counted(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
        times.append(customer_id)
        return kept(connection, customer_id, now_ms)

    monkeypatch.setattr(effective_balance, "_read", counted)
    asks = [Ask(f"u{at}", Wish("beta", "idea", 1), guarded.fleet.by) for at in range(4)]
    answers = write(guarded.fleet.engine, lambda c: guard.take_all(c, asks))
    assert [one.decision for one in answers if isinstance(one, guard.Answer)] == ["allow", "allow", "allow", "block"]
    assert len(times) == 1
    render(guarded, 1, "b")
    assert read(guarded.fleet.engine, lambda c: effective_balance.unbilled_micro(c, "beta", guarded.now)) == 3 * MICRO
