"""Nobody is charged twice: thousands of charges, calls that fail in every way, and the emulator's books as the judge.

Two nets hold, each alone: the lookup where Stripe forgets its keys, and the key where nobody looks up. Planted bugs
show that the judge sees it when one of them is torn.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from drawdown.providers.http import Call, HttpResult
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    NeedsCustomer,
    NotFound,
    OtherContent,
    Payment,
)
from drawdown.providers.stripe import payments
from drawdown.providers.stripe.payments import StripePayments
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import post
from tests.cases import cases
from tests.contract.stripe_payments_setup import (
    PaymentWorld,
    charge,
    charged_blindly,
    judged_by_books,
    looked_up,
    rates,
)
from tests.emulators.stripe_payments import CHARGE_FAULTS, LIST_FAULTS
from tests.whole import share

MANY = share(500, whole=2_000)
SOME = share(200, whole=400)
CUSTOMERS = 40
MANNERS = ["good"] * 12 + ["declined", "stolen", "expired", "authenticate", "action", "processing", "insufficient"]
Results = dict[str, tuple[Charge, ChargeResult]]
Caller = Callable[[StripePayments, Any, Charge], Awaitable[ChargeResult]]


def lived(
    count: int, caller: Caller, *, seed: int, share: float = 1 / 3, **stripe: Any
) -> tuple[PaymentWorld, Results]:
    """So many charges, one after the other, by one caller, and what it was told of each."""
    world, rng = PaymentWorld(rates(share), seed), random.Random(seed)
    for name, value in stripe.items():
        setattr(world.stripe, name, value)
    world.books.settles_after_ms = 2 * 3_600_000
    for number in range(CUSTOMERS):
        world.stripe.add_customer(f"cus_{number}")
        world.books.put_in(f"cus_{number}", rng.choice(MANNERS))
    results: Results = {}

    async def live() -> None:
        for number in range(count):
            request = charge(
                rng.randint(50, 100_000),
                charge_id=f"topup:w{number}:1",
                customer_id=f"cus_{rng.randrange(CUSTOMERS)}",
                begun_ms=world.clock.at_ms,
            )
            results[request.charge_id] = (request, await caller(world.service, world.clock, request))
            world.wait(rng.randint(0, 600_000))

    asyncio.run(live())
    world.wait(3_600_000)
    world.books.settle(world.clock.at_ms)
    return world, results


def kinds(results: Mapping[str, tuple[Charge, ChargeResult]]) -> Counter[type]:
    return Counter(type(result) for _, result in results.values())


def test_many_charges_under_all_faults_are_not_doubled() -> None:
    world, results = lived(MANY, looked_up, seed=1)
    assert judged_by_books(world, results) == []
    assert set(world.books.struck) == {*CHARGE_FAULTS, *LIST_FAULTS}
    seen = kinds(results)
    assert set(seen) == {Payment, Declined, NeedsCustomer, OtherContent}
    assert seen[Payment] > MANY / 3
    assert len(world.books.taken) >= seen[Payment]
    text = " ".join(str(result) for _, result in results.values())
    assert "sk_test" not in text and "_secret_" not in text and "pm_" not in text


@cases("seed", share([2], whole=range(2, 5)))
def test_charges_without_stored_keys_are_not_doubled_by_lookup(seed: int) -> None:
    world, results = lived(SOME, looked_up, seed=seed, keeps_keys_ms=0)
    assert judged_by_books(world, results) == []


@cases("seed", share([5], whole=range(5, 8)))
def test_charges_without_lookup_are_not_doubled_by_key(seed: int) -> None:
    world, results = lived(SOME, charged_blindly, seed=seed)
    assert judged_by_books(world, results) == []


# Bugs that are planted, each where one net is left: the judge goes red.


def test_charge_key_that_differs_per_call_is_found_by_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)

    def planted(settings: StripeSettings, path: str, form: Mapping[str, str], key: str) -> Call:
        return post(settings, path, form, f"{key}:{rng.random()}")

    monkeypatch.setattr(payments, "post", planted)
    world, results = lived(SOME, charged_blindly, seed=5)
    assert any("charged twice" in line for line in judged_by_books(world, results))


def test_lookup_absence_trusted_before_lag_is_found_by_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = replace(StripePayments.capabilities, lookup_lag_ms=0)
    monkeypatch.setattr(StripePayments, "capabilities", hasty)
    world, results = lived(SOME, looked_up, seed=2, keeps_keys_ms=0)
    assert any("charged twice" in line for line in judged_by_books(world, results))


def test_charge_without_id_in_metadata_is_found_by_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    async def planted(self: StripePayments, request: Charge) -> Any:
        found = await real(self, request)
        return found if isinstance(found, InDoubt) else {}

    real = StripePayments._intents_of
    monkeypatch.setattr(StripePayments, "_intents_of", planted)
    world, results = lived(SOME, looked_up, seed=2, keeps_keys_ms=0)
    assert any("charged twice" in line for line in judged_by_books(world, results))


def test_truncated_list_treated_as_empty_is_found_by_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    async def planted(self: StripePayments, request: Charge) -> Any:
        found = await real(self, request)
        return {} if isinstance(found, InDoubt) else found

    real = StripePayments._intents_of
    monkeypatch.setattr(StripePayments, "_intents_of", planted)
    world, results = lived(SOME, looked_up, seed=2, keeps_keys_ms=0)
    assert any("charged twice" in line for line in judged_by_books(world, results))


def test_doubt_treated_as_decline_is_found_by_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    real = payments.created

    def planted(answer: HttpResult, request: Charge, now_ms: int) -> ChargeResult:
        result = real(answer, request, now_ms)
        return Declined("error", result.reason, True) if isinstance(result, InDoubt) else result

    monkeypatch.setattr(payments, "created", planted)
    world, results = lived(SOME, looked_up, seed=2)
    assert any("money was taken" in line for line in judged_by_books(world, results))


def test_another_amount_treated_as_paid_is_found_by_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payments, "_difference", lambda intent, request: "")
    monkeypatch.setattr(
        payments, "_succeeded", lambda intent, name, request: Payment(name, request.amount, request.currency)
    )
    world, results = lived(SOME, looked_up, seed=2)
    assert any("paid, it said" in line for line in judged_by_books(world, results))


def test_judge_of_charges_without_faults_is_clean() -> None:
    world, results = lived(SOME, looked_up, seed=9, share=0.0)
    assert judged_by_books(world, results) == []
    assert NotFound not in kinds(results) and OtherContent not in kinds(results)
