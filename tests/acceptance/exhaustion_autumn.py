"""The Autumn provider and its emulated server for exhaustion: a credit system that pays for each size, whose customers
have one grant each.

Guarantee: credit changes by Autumn's own calls (`balances.update`), and a webhook is the one that Autumn sends for it,
signed as Svix signs it.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import sqlalchemy as sa

from drawdown.providers.autumn import AutumnProvider, build
from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import Clock
from drawdown.schema.units import MICRO
from tests.acceptance.exhaustion_fleet import PRICES
from tests.emulators.autumn import SECRET_KEY, STALE_MS, AutumnEmulator
from tests.emulators.autumn_numbers import ONE_OFF
from tests.official import Webhook

WEBHOOK_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Oldest(random.Random):
    """Makes each stale read as old as one can be."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return (start if stop is None else stop) - step


@dataclass
class Account:
    """One Autumn account, and the provider that bills it."""

    clock: Clock
    engine: sa.Engine
    emulator: AutumnEmulator = field(default_factory=AutumnEmulator)
    http: Direct | None = None

    def __post_init__(self) -> None:
        costs = {f"compute_{memory // 1024}gb": Decimal(micro) / MICRO for memory, micro in PRICES.items()}
        for feature in costs:
            self.emulator.account.add_feature(feature)
        self.emulator.account.add_feature("credits", kind="credit_system", credit_schema=dict(costs))
        settings = {"secret_key": SECRET_KEY, "webhook_secrets": WEBHOOK_SECRET}
        http = self.http or Direct(self.emulator, self.clock)
        self.provider: AutumnProvider = build(Setup("autumn", settings, self.clock, http, self.engine))

    def give(self, customer: str, micro: int) -> None:
        """Grant a new customer its credit; add to the grant of another, so that it pays its debt first."""
        now_ms, account = self.clock.now_ms(), self.emulator.account
        if customer not in account.customers:
            account.add_customer(customer, now_ms)
            account.grant(customer, "credits", Decimal(micro) / MICRO, now_ms, interval=ONE_OFF)
        else:
            self._update(customer, {"add_to_balance": micro / MICRO})

    def be_stale(self, share: float) -> None:
        """From now on answer this share of reads with a customer as of up to STALE_MS ago."""
        self.emulator.faults.rates = {**self.emulator.faults.rates, "stale_read": share}

    def empty(self, customer: str) -> tuple[dict[str, str], bytes]:
        """Set a customer's credit to zero; return the headers and the body of the webhook that Autumn sends for it."""
        before = len(self.emulator.webhooks)
        self._update(customer, {"remaining": 0})
        (sent,) = self.emulator.webhooks[before:]
        assert sent == {
            "type": "balances.limit_reached",
            "data": {"customer_id": customer, "feature_id": "credits", "limit_type": "included"},
        }
        body, at_s = json.dumps(sent), self.clock.now_ms() // 1000
        signature = Webhook(WEBHOOK_SECRET).sign(f"msg_{customer}", datetime.fromtimestamp(at_s, UTC), body)
        headers = {"svix-id": f"msg_{customer}", "svix-timestamp": str(at_s), "svix-signature": signature}
        return headers, body.encode()

    def _update(self, customer: str, change: dict[str, float]) -> None:
        body = json.dumps({"customer_id": customer, "feature_id": "credits", **change}).encode()
        headers = {"authorization": f"Bearer {SECRET_KEY}", "x-api-version": "2.3.0"}
        call = Call("POST", "https://api.test/v1/balances.update", headers, body)
        answer = self.emulator.handle(call, self.clock.now_ms())
        assert isinstance(answer, Answer) and answer.status == 200, answer


@dataclass
class StaleAfterChange(Direct):
    """Answers reads of a customer as of before its change, for so long after it."""

    stale_s: float = 0
    changed: dict[str, float] = field(default_factory=dict)
    """When each customer's credit changed, in real time."""

    def __post_init__(self) -> None:
        assert isinstance(self.emulator, AutumnEmulator)
        self.faults, self.past = self.emulator.faults, self.emulator.account.past
        self.faults.rng = Oldest(1)

    async def send(self, call: Call) -> HttpResult:
        if not self.stale_s or not call.url.endswith("/customers.get"):
            return await super().send(call)
        since = self.changed.get(json.loads(call.body)["customer_id"])
        is_stale = since is not None and time.monotonic() - since < self.stale_s
        self.faults.rates = {"stale_read": 1.0} if is_stale else {}
        try:
            return await super().send(call)
        finally:
            self.faults.rates = {}

    def keep_past(self) -> None:
        """From now on remember how customers were."""
        self.past.keep_ms = STALE_MS
