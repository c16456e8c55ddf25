"""What the tests of Stripe as a payment service share: a service on an emulator, two callers, and a judge.

The judge asks the emulator's books, and nobody else: what was taken, under which id, from whom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from drawdown.providers.http import Call, HttpResult
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    NeedsCustomer,
    NotFound,
    NotSent,
    Payment,
    PaymentService,
)
from drawdown.providers.stripe.payments import StripePayments, build
from drawdown.schema.clock import FixedClock
from tests.contract.stripe_setup import NOW_MS, Stub, said, setup
from tests.emulators.stripe import StripeEmulator
from tests.emulators.stripe_payments import CHARGE_FAULTS, LIST_FAULTS

CHARGE_ID = "topup:acme:7"
MINUTE_MS = 60_000
MAX_WAIT_MS = 6 * 60 * MINUTE_MS
STEPS = 400


class PaymentWorld:
    """An emulator with a customer who has a good card, and the service on it."""

    def __init__(self, rates: Mapping[str, float] | None = None, seed: int = 0, **settings: str) -> None:
        self.clock = FixedClock(NOW_MS)
        self.stripe = StripeEmulator(faults=FaultPlan(seed, rates or {}))
        self.stripe.add_customer("cus_1", "cus_2")
        self.books = self.stripe.payments
        self.books.put_in("cus_1")
        self.service: StripePayments = build(setup(Direct(self.stripe, self.clock), self.clock, **settings))

    def wait(self, ms: int) -> None:
        self.clock.at_ms += ms


def charge(amount: int = 2000, **changes: Any) -> Charge:
    usual = Charge(CHARGE_ID, "cus_1", amount, "usd", "20 credits", NOW_MS)
    return replace(usual, **changes)


def intent(**changes: Any) -> dict[str, Any]:
    """A PaymentIntent of that charge, as Stripe shows one that was paid."""
    usual: dict[str, Any] = {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": 2000,
        "amount_received": 2000,
        "currency": "usd",
        "customer": "cus_1",
        "last_payment_error": None,
        "metadata": {"drawdown_charge": CHARGE_ID},
        "status": "succeeded",
    }
    return {**usual, **changes}


def card_error(code: str = "card_declined", decline: str | None = None, **changes: Any) -> dict[str, Any]:
    """An error as it stands in a 402, and in an intent."""
    found = {"type": "card_error", "code": code, "message": "Your card was declined.", **changes}
    return {**found, **({"decline_code": decline} if decline else {})}


def stubbed_payments(
    answer: HttpResult | Callable[[Call], HttpResult], customer: object = None, **settings: str
) -> tuple[StripePayments, Stub]:
    """A service whose customer has a card, and whose other calls are answered by hand."""
    usual = {"id": "cus_1", "object": "customer", "invoice_settings": {"default_payment_method": "pm_1"}}

    def answered(call: Call) -> HttpResult:
        if "/v1/customers/" in call.url:
            return said(200, usual if customer is None else customer)
        return answer(call) if callable(answer) else answer

    stub = Stub(answered)
    return build(setup(stub, FixedClock(NOW_MS), **settings)), stub


def rates(share: float) -> dict[str, float]:
    """Every fault there is, equally often; together a share of all calls, of either kind."""
    return dict.fromkeys(CHARGE_FAULTS, share / len(CHARGE_FAULTS)) | dict.fromkeys(
        LIST_FAULTS, share / len(LIST_FAULTS)
    )


def is_final(result: ChargeResult) -> bool:
    return not isinstance(result, InDoubt | NotFound | NotSent)


async def looked_up(service: PaymentService, clock: FixedClock, request: Charge) -> ChargeResult:
    """A caller as the protocol wants it: what is in doubt is looked up, and charged again only where it is absent once
    the lag is over. Without faults for ever, it ends."""
    in_doubt, called_ms, wait_ms = False, clock.at_ms, MINUTE_MS
    for _ in range(STEPS):
        result: ChargeResult = await service.look_up(request) if in_doubt else NotFound()
        if isinstance(result, NotFound) and in_doubt and clock.at_ms - called_ms < service.capabilities.lookup_lag_ms:
            clock.at_ms = called_ms + service.capabilities.lookup_lag_ms
            continue
        if isinstance(result, NotFound):
            result, called_ms = await service.charge(request), clock.at_ms
        if is_final(result) or (isinstance(result, NotSent) and result.retry_at_ms is None and not in_doubt):
            return result
        in_doubt = in_doubt or isinstance(result, InDoubt)
        later = result.retry_at_ms if isinstance(result, NotSent) else None
        clock.at_ms = max(clock.at_ms + wait_ms, later or 0)
        wait_ms = min(wait_ms * 2, MAX_WAIT_MS)
    raise AssertionError(f"it never ends: {result}")


async def charged_blindly(service: PaymentService, clock: FixedClock, request: Charge) -> ChargeResult:
    """A caller who looks nothing up and charges again until there is an answer, within the day that keys live."""
    until_ms = clock.at_ms + 23 * 60 * MINUTE_MS
    doubt: InDoubt | None = None
    result: ChargeResult = NotSent("never called", None)
    while clock.at_ms < until_ms:
        result = await service.charge(request)
        if is_final(result):
            return result
        doubt = result if isinstance(result, InDoubt) else doubt
        clock.at_ms += 7 * MINUTE_MS
    return doubt or result  # "not sent" speaks of the last call alone


def judged_by_books(world: PaymentWorld, results: Mapping[str, tuple[Charge, ChargeResult]]) -> list[str]:
    """What is wrong, a line each: the books beside what the service said."""
    lines = [f"{charge_id}: charged twice" for charge_id in world.books.doubles()]
    for charge_id, (request, result) in results.items():
        taken = [one for one in world.books.taken if one.charge_id == charge_id]
        if isinstance(result, Payment):
            said_paid = [(one.payment_id, one.amount, one.currency) for one in taken]
            if said_paid != [(result.payment_id, request.amount, request.currency)]:
                lines.append(f"{charge_id}: paid, it said; the books have {taken}")
        elif taken and isinstance(result, Declined | NeedsCustomer | NotFound | NotSent):
            lines.append(f"{charge_id}: money was taken, and it said {result}")
    return lines
