"""What the tests of the Autumn provider share: an emulated account, answers made by hand, and one push."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

import sqlalchemy as sa

from drawdown.providers.autumn import AutumnProvider, build
from drawdown.providers.http import Answer, Call, Http, HttpResult
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.protocol import Outcome, Part, PushRequest, Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.units import WINDOW_MS
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator

T = TypeVar("T")
NOW_MS = 1_795_156_920_000
WINDOW = NOW_MS - NOW_MS % WINDOW_MS - 2 * WINDOW_MS
KEY = f"usage:org-1:{WINDOW}:compute"
PLAN_PARTS = (Part("compute", "cus_ent_000000000000000000000000005", Decimal(100), plan="starter"),)
"""What the plan of `World` grants each month."""


def done(work: Awaitable[T]) -> T:
    async def run() -> T:
        return await work

    return asyncio.run(run())


def push(
    quantity: int = 7,
    *,
    key: str = KEY,
    customer_id: str = "cus_1",
    feature: str = "compute",
    ts: int = WINDOW,
    attempt: int = 1,
) -> PushRequest:
    return PushRequest(key, customer_id, feature, quantity, ts, attempt)


@dataclass
class Stub:
    """Answers every call the same, or by a function of it; remembers what was sent."""

    answer: HttpResult | Callable[[Call], HttpResult]
    sent: list[Call] = field(default_factory=list)

    async def send(self, call: Call) -> HttpResult:
        self.sent.append(call)
        return self.answer(call) if callable(self.answer) else self.answer

    async def close(self) -> None:
        """There is nothing to close."""

    @property
    def bodies(self) -> list[dict[str, object]]:
        return [json.loads(one.body) for one in self.sent]


def said(status: int, body: object, **headers: str) -> Answer:
    """An answer made by hand; text and bytes are sent as they are."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, raw)


def no(status: int, code: str, message: str = "no") -> Answer:
    return said(status, {"message": message, "code": code, "env": "sandbox"})


def made(http: Http, *, at: FixedClock | None = None, **settings: str) -> AutumnProvider:
    return built(http, {"secret_key": SECRET_KEY, **settings}, at)


def built(http: Http, settings: Mapping[str, str], at: FixedClock | None = None) -> AutumnProvider:
    return build(Setup("autumn", settings, at or FixedClock(NOW_MS), http, sa.create_engine("sqlite://")))


def stubbed(answer: HttpResult | Callable[[Call], HttpResult], **settings: str) -> AutumnProvider:
    return built(Stub(answer), {"secret_key": SECRET_KEY, **settings})


def one(provider: AutumnProvider, request: PushRequest | None = None) -> Outcome:
    (outcome,) = done(provider.push([request or push()]))
    return outcome


@dataclass
class World:
    """An account with features compute and concurrency, and a customer with 100 of compute a month."""

    rates: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = FixedClock(NOW_MS)
        self.emulator = AutumnEmulator(FaultPlan(self.seed, self.rates))
        account = self.emulator.account
        account.add_feature("compute")
        account.add_feature("concurrency", consumable=False)
        account.add_feature("pro_flag", kind="boolean")
        account.add_plan("starter", {"compute": (100, "month"), "concurrency": (3, None), "pro_flag": (0, None)})
        account.add_customer("cus_1", WINDOW - 1_000)
        account.attach("cus_1", "starter", WINDOW - 1_000)
        http = Direct(self.emulator, self.clock)
        self.provider = built(http, {"secret_key": SECRET_KEY, **self.settings}, self.clock)

    def push(self, request: PushRequest | None = None) -> Outcome:
        return one(self.provider, request)

    def charged(self, window_ms: int = WINDOW) -> object:
        return self.emulator.charged("cus_1", "compute", window_ms)

    def wait(self, ms: int) -> None:
        self.clock.at_ms += ms
        self.emulator.work_off(self.clock.at_ms)
