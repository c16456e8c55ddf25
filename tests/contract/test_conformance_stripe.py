"""The Stripe provider keeps the protocol, against the emulator of what Stripe documents."""

from __future__ import annotations

import hmac
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.providers.conformance import Bench, ProviderConformance, Unsupported, Wire
from drawdown.providers.conformance.bench import Secret
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.protocol import Cancelled, Provider, PushRequest, Setup
from drawdown.providers.stripe import StripeProvider, build
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from tests.cases import cases
from tests.emulators.stripe import StripeEmulator
from tests.whole import share
from tests.world import T0

KEY = "sk_test_canary0123456789"
SECRETS: Mapping[Secret, str] = {name: f"whsec_{name}Canary0123456789" for name in ("current", "previous", "strange")}


@cache
def no_wallets() -> sa.Engine:
    """A database of our own in which no customer has a prepaid wallet."""
    engine = connect(f"sqlite:///{Path(tempfile.mkdtemp())}/drawdown.db")
    upgrade(engine)
    return engine


class StripeBench(Bench):
    customer, unknown_customer = "cus_1", "cus_2"
    feature, unknown_feature = "compute", "nosuch"
    secrets = (KEY, *SECRETS.values())
    meters = stream_url = ""

    def __init__(self) -> None:
        self.clock = FixedClock(T0)
        self.service = StripeEmulator(secret_key=KEY)
        self.service.add_customer("cus_1")
        self.service.add_meter("compute")
        self.service.add_meter("gb_seconds")
        self.wire = self._wire = Wire(Direct(self.service, self.clock))
        self.provider = self._with_key(KEY)

    def _with_key(self, key: str) -> Provider:
        hooks = f"{SECRETS['current']},{SECRETS['previous']}"
        settings = {"secret_key": key, "webhook_secrets": hooks, "meters": self.meters}
        settings |= {"stream_url": self.stream_url} if self.stream_url else {}
        return build(Setup("stripe", settings, self.clock, self._wire, no_wallets()))

    def charged(self, request: PushRequest) -> int | None:
        units = self.service.charged_under(request.key)
        return None if units is None else int(units) * self._unit

    def charged_total(self, customer_id: str, feature: str) -> int:
        return self.service.charged(customer_id, "gb_seconds" if self.meters else feature) * self._unit

    @property
    def _unit(self) -> int:
        return self.provider.capabilities.unit_of(self.feature)

    def charging_nothing(self) -> str:
        raise Unsupported(
            "Stripe's success does not say what it charged: error reports and reconcile find what is gone"
        )

    def change_of(self, customer_id: str) -> bytes:
        return self.service.customer_webhook("customer.updated", customer_id, self.clock.now_ms())[1]

    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        at = str(self.clock.now_ms() // 1000)
        mac = hmac.new(SECRETS[secret].encode(), f"{at}.".encode() + body, "sha256").hexdigest()
        return {"stripe-signature": f"t={at},v1={mac}", "content-type": "application/json"}

    def late_refusal(self, request: PushRequest) -> tuple[Mapping[str, str], bytes]:
        self.advance(self.service.report_after_ms)
        self.service.webhook_secret = SECRETS["current"]
        (report,) = self.service.webhooks(self.clock.now_ms())
        return report

    def with_bad_key(self) -> Provider:
        return self._with_key("sk_test_ofAnotherAccount")

    def without_key(self) -> Provider:
        return self._with_key("")


class StripeInUnits(StripeBench):
    """Megabyte-seconds, sold as gigabyte-seconds."""

    meters = "compute=gb_seconds/1024"


class StreamBench(StripeInUnits):
    """The same by v2's stream, whose events are looked at after the answer."""

    stream_url = "https://stream.test"
    tells_duplicates = False
    secrets = (*StripeBench.secrets, "token_1_of_a_session")


SEEDS = share(4, whole=ProviderConformance.seeds)
"""Of what differs from the first in its units, or in its way there."""


class TestStripe(ProviderConformance):
    def make_bench(self) -> Bench:
        return StripeBench()


class TestStripeInUnits(ProviderConformance):
    seeds = SEEDS

    def make_bench(self) -> Bench:
        return StripeInUnits()


class TestStream(ProviderConformance):
    seeds = SEEDS

    def make_bench(self) -> Bench:
        return StreamBench()


SURVIVED = (
    "connection_refused", "request_lost", "throttled", "throttled_nonsense", "lock_timeout", "error_500_before",
    "cached_500", "error_500_after", "answer_lost", "nonsense", "reads_lag", "reads_fail",
    "session_expired",
)  # fmt: skip
"""What a push has to survive by itself. What is refused after it was accepted is told by a webhook, or by reconcile."""


@cases("seed", share(range(6), whole=range(40)))
@cases("kind", [TestStripe, TestStream])
def test_stripe_conformance_holds_under_stripe_faults(kind: type[TestStripe | TestStream], seed: int) -> None:
    suite = kind()
    suite.setup_method()
    assert isinstance(suite.bench, StripeBench)
    suite.bench.service.faults = FaultPlan(seed, dict.fromkeys(SURVIVED, 0.04))
    suite.keeps_the_law(seed)
    assert sum(suite.bench.service.faults.counts.values()) > 0 and suite.bench.service.doubles == []
    suite.teardown_method()


CANCELS: Mapping[str, tuple[bool, str]] = {
    "it says so, and does nothing": (False, "test_a_cancelled_push_counts_nowhere"),
    "it says so, whatever was answered": (True, "test_a_cancel_that_was_cut_confirms_nothing"),
}


@cases("wrong", CANCELS)
def test_conformance_suite_finds_wrong_cancel(wrong: str) -> None:
    asks, test = CANCELS[wrong]
    suite = TestStripe()
    suite.setup_method()
    getattr(suite, test)()
    suite.finish()
    suite.start()
    provider = suite.bench.provider
    assert isinstance(provider, StripeProvider)
    right = provider.cancel

    async def cancel(request: PushRequest) -> Cancelled:
        if asks:
            await right(request)
        return Cancelled("it says so")

    provider.cancel = cancel  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        getattr(suite, test)()
    suite.teardown_method()
