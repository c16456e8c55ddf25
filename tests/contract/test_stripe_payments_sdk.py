"""Stripe's own Python client against the emulator's payments: whether the emulator speaks as Stripe does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import stripe

from drawdown.schema.clock import FixedClock
from tests.contract.stripe_setup import NOW_MS
from tests.emulators.serve import serving_in_thread
from tests.emulators.stripe import StripeEmulator

PARAMS: dict[str, Any] = {
    "amount": 2000,
    "currency": "usd",
    "customer": "cus_1",
    "off_session": True,
    "confirm": True,
    "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
    "metadata": {"drawdown_charge": "topup:acme:7"},
}


@dataclass
class World:
    """The emulator, served, and the official client on it."""

    emulator: StripeEmulator
    client: stripe.StripeClient

    def pay(self, manner: str = "good", key: str = "k", **changes: Any) -> stripe.PaymentIntent:
        card = self.emulator.payments.put_in("cus_1", manner) if "payment_method" not in changes else ""
        params: Any = {**PARAMS, "payment_method": card, **changes}
        return self.client.v1.payment_intents.create(params, {"idempotency_key": key})


@pytest.fixture
def world() -> Iterator[World]:
    emulator = StripeEmulator()
    emulator.add_customer("cus_1", "cus_2")
    with serving_in_thread(emulator, FixedClock(NOW_MS)) as url:
        yield World(emulator, stripe.StripeClient("sk_test_emulator", base_addresses={"api": url}))


def test_stripe_client_reads_emulated_payment(world: World) -> None:
    found = world.pay()
    assert isinstance(found, stripe.PaymentIntent)
    assert (found.status, found.amount, found.amount_received, found.currency) == ("succeeded", 2000, 2000, "usd")
    assert found.metadata["drawdown_charge"] == "topup:acme:7"
    assert world.emulator.payments.charged("topup:acme:7") == 2000


@pytest.mark.parametrize(
    ("manner", "code", "decline"),
    [
        ("stolen", "card_declined", "stolen_card"),
        ("expired", "expired_card", None),
        ("authenticate", "authentication_required", "authentication_required"),
    ],
)
def test_stripe_client_raises_card_error_for_declined_card(world: World, manner: str, code: str, decline: str) -> None:
    with pytest.raises(stripe.CardError) as refused:
        world.pay(manner)
    error = refused.value.error
    assert refused.value.http_status == 402 and error is not None
    assert (error.code, error.decline_code) == (code, decline)
    assert error.payment_intent is not None and error.payment_intent.status == "requires_payment_method"
    with pytest.raises(stripe.CardError):  # the same key: the same answer, and nothing anew
        world.pay(payment_method=error.payment_intent.last_payment_error and world.emulator.payments.intents[0].card)
    assert len(world.emulator.payments.intents) == 1


def test_stripe_client_repeats_same_key_and_refuses_changed_amount(world: World) -> None:
    card = world.emulator.payments.put_in("cus_1")
    first, second = (world.pay(payment_method=card) for _ in range(2))
    assert first.id == second.id and len(world.emulator.payments.taken) == 1
    with pytest.raises(stripe.IdempotencyError):
        world.pay(payment_method=card, amount=3000)


@pytest.mark.parametrize(
    "changes",
    [
        {"payment_method": "pm_none"},
        {"amount": 10},
        {"customer": "cus_none"},
        {"automatic_payment_methods": {"enabled": True}},
    ],
)
def test_stripe_client_raises_invalid_request_for_bad_payment(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        world.pay(**changes)
    assert world.emulator.payments.taken == []


def test_stripe_client_pages_through_payments_by_customer(world: World) -> None:
    made = [world.pay(key=f"k{number}").id for number in range(5)]
    pages = world.client.v1.payment_intents.list({"customer": "cus_1", "limit": 2})
    assert [one.id for one in pages.auto_paging_iter()] == made[::-1]
    assert list(world.client.v1.payment_intents.list({"customer": "cus_2"})) == []
    later = {"customer": "cus_1", "created": {"gte": NOW_MS // 1000 + 1}}
    assert list(world.client.v1.payment_intents.list(later)) == []  # type: ignore[arg-type]


def test_stripe_client_reads_customer_checkout_and_portal(world: World) -> None:
    card = world.emulator.payments.put_in("cus_1")
    customer = world.client.v1.customers.retrieve("cus_1")
    assert customer.invoice_settings is not None and customer.invoice_settings.default_payment_method == card
    page = world.client.v1.checkout.sessions.create(
        {"mode": "setup", "customer": "cus_2", "payment_method_types": ["card"], "success_url": "https://x.test/"}
    )
    assert page.url is not None
    world.emulator.payments.complete(page.url)
    (found,) = world.client.v1.checkout.sessions.list({"customer": "cus_2", "status": "complete"})
    assert (found.id, found.mode, found.status) == (page.id, "setup", "complete")
    portal = world.client.v1.billing_portal.sessions.create({"customer": "cus_1", "return_url": "https://x.test/"})
    assert portal.url.startswith("https://")
