"""What the tests of Stripe share: a provider on an emulator, and answers made by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from drawdown.providers.http import Answer, Call, Http, HttpResult
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.protocol import Outcome, PushRequest, Setup
from drawdown.providers.stripe import StripeProvider, build
from drawdown.schema.clock import Clock, FixedClock
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from tests.emulators.stripe import StripeEmulator

NOW_MS = 1_790_000_100_000 // WINDOW_MS * WINDOW_MS + 2 * WINDOW_MS
WINDOW = NOW_MS - 2 * WINDOW_MS
KEY = f"usage:org1:{WINDOW}:compute"
SECRET = "sk_test_emulator"
SETTINGS = {
    "secret_key": SECRET,
    "url": "https://stripe.test",
    "webhook_secrets": "whsec_emulator",
    "meters": "compute=gb_seconds/1024",
}


def setup(http: Http, clock: Clock, engine: sa.Engine | None = None, /, **settings: str) -> Setup:
    """`settings` change those above; an empty one is left out."""
    given = {name: text for name, text in {**SETTINGS, **settings}.items() if text}
    return Setup("stripe", given, clock, http, engine or sa.create_engine("sqlite://"))


@dataclass
class Stub:
    """An `Http` that answers what it is told, and keeps the calls. The list of meters that is read before a push is
    empty, and no call: Stripe itself says what it thinks of a meter."""

    answer: HttpResult | Callable[[Call], HttpResult]
    calls: list[Call] = field(default_factory=list)

    async def send(self, call: Call) -> HttpResult:
        if call.url.endswith("/v1/billing/meters?limit=100") and not callable(self.answer):
            return said(200, {"object": "list", "data": []})
        self.calls.append(call)
        return self.answer(call) if callable(self.answer) else self.answer

    async def close(self) -> None:
        """There is nothing to close."""


class World:
    """An emulator with two meters and a customer, and a provider on it."""

    def __init__(
        self, rates: Mapping[str, float] | None = None, seed: int = 0, engine: sa.Engine | None = None, **settings: str
    ) -> None:
        self.clock = FixedClock(NOW_MS)
        self.stripe = StripeEmulator(faults=FaultPlan(seed, rates or {}))
        self.stripe.add_customer("cus_1", "cus_2")
        self.stripe.add_meter("gb_seconds")
        self.stripe.add_meter("compute_4gb")
        self.provider: StripeProvider = build(setup(Direct(self.stripe, self.clock), self.clock, engine, **settings))


def stubbed(answer: HttpResult | Callable[[Call], HttpResult], **settings: str) -> tuple[StripeProvider, Stub]:
    stub = Stub(answer)
    return build(setup(stub, FixedClock(NOW_MS), **settings)), stub


def push(quantity: int = 2048, *, attempt: int = 1, revision: int = 0, **changes: Any) -> PushRequest:
    """A push of `compute`, dated as the worker dates a revision."""
    usual: dict[str, Any] = {
        "key": KEY + (f":r{revision}" if revision else ""),
        "customer_id": "cus_1",
        "feature": "compute",
        "quantity": quantity,
        "ts": WINDOW + min(revision, 4) * MINUTE_MS,
        "attempt": attempt,
    }
    return PushRequest(**{**usual, **changes})


def said(status: int, body: object, **headers: str) -> Answer:
    """An answer; header names with _ for -."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, raw)


def error(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, object]:
    return {"error": {"type": kind, "message": message, **({"code": code} if code else {})}}


T = TypeVar("T")


def done(work: Awaitable[T]) -> T:
    async def run() -> T:
        return await work

    return asyncio.run(run())


def one(provider: StripeProvider, request: PushRequest) -> Outcome:
    (outcome,) = done(provider.push([request]))
    return outcome
