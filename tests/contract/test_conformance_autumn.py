"""The Autumn provider keeps the protocol, against the emulator of a recorded server."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import Any, cast

import pytest
import sqlalchemy as sa

from drawdown.providers.autumn import build
from drawdown.providers.conformance import Bench, ProviderConformance, Unsupported, Wire
from drawdown.providers.conformance.bench import Secret
from drawdown.providers.http import Http
from drawdown.providers.http.client import HttpClient
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.protocol import (
    Accepted,
    Cost,
    CustomerRead,
    CustomerState,
    Drawn,
    Part,
    Provider,
    PushRequest,
    ReadFailed,
    Setup,
)
from drawdown.schema.clock import FixedClock
from tests.cases import cases
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.serve import serving_in_thread
from tests.whole import share
from tests.world import T0

SECRETS: Mapping[Secret, str] = {
    name: "whsec_" + base64.b64encode(f"{name}-canary-of-32-characters!!"[:32].encode()).decode()
    for name in ("current", "previous", "strange")
}


class AutumnBench(Bench):
    customer, unknown_customer = "c-1", "c-2"
    feature, unknown_feature = "compute", "nosuch"
    secrets = (SECRET_KEY, *SECRETS.values())

    def __init__(self) -> None:
        self.clock = FixedClock(T0)
        # As many lists a second as a test may ask for: its clock stands still.
        self.service = AutumnEmulator(lists_per_s=1_000_000)
        self.set_up()
        account = self.service.account
        for customer in ("c-1", "c-idle"):
            account.add_customer(customer, T0)
        account.attach("c-1", "starter", T0)
        self.url, http = self.reached()
        self.wire = self._wire = Wire(http)
        self.provider = self._with_key(SECRET_KEY)

    def set_up(self) -> None:
        """What the plan of the customer grants."""
        self.service.account.add_feature("compute")
        self.service.account.add_plan("starter", {"compute": (10**12, None)})

    def reached(self) -> tuple[str, Http]:
        """The service's address, and what sends to it."""
        return "https://autumn.test", Direct(self.service, self.clock)

    def _with_key(self, key: str) -> Provider:
        hooks = f"{SECRETS['current']},{SECRETS['previous']}"
        settings = {"secret_key": key, "webhook_secrets": hooks, "url": self.url}
        return build(Setup("autumn", settings, self.clock, self._wire, sa.create_engine("sqlite://")))

    def charged(self, request: PushRequest) -> int | None:
        self.service.work_off(self.clock.now_ms())
        found = self.service.charged_under(request.key)
        return None if found is None else int(found)

    def charged_total(self, customer_id: str, feature: str) -> int:
        self.service.work_off(self.clock.now_ms())
        truth = self.service.charged_by()
        return int(sum(value for (who, what, _), value in truth.items() if (who, what) == (customer_id, feature)))

    def charging_nothing(self) -> str:
        return "c-idle"  # has no plan: 200, "balance": null, "deductions": []

    def change_of(self, customer_id: str) -> bytes:
        return json.dumps({"type": "balances.limit_reached", "data": {"customer_id": customer_id}}).encode()

    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        at = str(self.clock.now_ms() // 1000)
        mac = hmac.digest(
            base64.b64decode(SECRETS[secret].removeprefix("whsec_")), f"msg_1.{at}.".encode() + body, "sha256"
        )
        signature = f"v1,{base64.b64encode(mac).decode()}"
        return {"svix-id": "msg_1", "svix-timestamp": at, "svix-signature": signature}

    def late_refusal(self, request: PushRequest) -> tuple[Mapping[str, str], bytes]:
        raise Unsupported("what Autumn drops later it drops without a word: lookups and reconcile find it")

    def with_bad_key(self) -> Provider:
        return self._with_key("am_sk_test_of_another_account")

    def without_key(self) -> Provider:
        return self._with_key("")


class CreditBench(AutumnBench):
    """The customer pays for the feature from a credit system, with credits that were granted once."""

    COST = ("credits", Decimal("0.0064"))

    def set_up(self) -> None:
        account = self.service.account
        account.add_feature("compute")
        account.add_feature("credits", kind="credit_system", credit_schema={"compute": self.COST[1]})
        account.add_plan("starter", {"credits": (10**12, None)})

    def cost(self, feature: str) -> tuple[str, Decimal] | None:
        return self.COST if feature == "compute" else None


class SocketBench(AutumnBench):
    """The same over real HTTP on a loopback socket."""

    def reached(self) -> tuple[str, Http]:
        self._server = serving_in_thread(self.service, self.clock)
        return self._server.__enter__(), HttpClient()

    def close(self) -> None:
        self._server.__exit__(None, None, None)


class TestAutumn(ProviderConformance):
    def make_bench(self) -> Bench:
        return AutumnBench()


class TestAutumnInCredits(ProviderConformance):
    seeds = share(4, whole=ProviderConformance.seeds)

    def make_bench(self) -> Bench:
        return CreditBench()


class TestAutumnOverSockets(ProviderConformance):
    seeds = 3
    # What stands in an answer is the same over a socket: `TestAutumn` changes each field of it.
    test_a_read_field_of_another_type_is_no_crash = None  # type: ignore[assignment]
    test_a_field_of_another_type_is_no_proof_and_no_crash = None  # type: ignore[assignment]

    def make_bench(self) -> Bench:
        return SocketBench()


SURVIVED = (
    "request_lost", "answer_lost", "error_500_before", "error_500_after", "throttled", "throttled_nonsense",
    "queued_late", "queued_dropped", "claimed_not_applied", "connection_refused", "nonsense", "reads_fail", "reads_lag",
)  # fmt: skip
"""What a push has to survive by itself. A 200 that is lost later, or a key store that fails open, is reconcile's."""


@cases("seed", share(range(6), whole=range(40)))
def test_autumn_conformance_holds_under_autumn_faults(seed: int) -> None:
    suite = TestAutumn()
    suite.setup_method()
    assert isinstance(suite.bench, AutumnBench)
    suite.bench.service.faults = FaultPlan(seed, dict.fromkeys(SURVIVED, 0.04))
    suite.keeps_the_law(seed)
    assert sum(suite.bench.service.faults.counts.values()) > 0 and suite.bench.service.doubles == []
    suite.teardown_method()


def _told(told: Sequence[Cost], **changes: object) -> list[Cost]:
    return [replace(cost, **changes) for cost in told]  # type: ignore[arg-type]


def _drew(told: Mapping[str, Drawn], times: Decimal) -> dict[str, Drawn]:
    return {balance: replace(one, quantity=one.quantity * times) for balance, one in told.items()}


def _states(found: Mapping[str, CustomerRead], **changes: object) -> dict[str, CustomerRead]:
    """Of those that were read."""
    changed = {name: replace(one, **changes) for name, one in found.items() if isinstance(one, CustomerState)}  # type: ignore[arg-type]
    return {**found, **changed}


EXACT, FIELDS = "test_costs_are_exact_and_the_same_again", "test_a_read_field_of_another_type_is_no_crash"
PART, FLOATING = Part("credits", "a", Decimal(1)), Part("credits", "a", cast(Any, 0.1))
WRONG_IN_CREDITS: Mapping[str, tuple[str, Callable[[Any], object], str]] = {
    "a cost is another": ("costs", lambda told: _told(told, credits=Decimal("0.0065")), EXACT),
    "a cost is floating": ("costs", lambda told: _told(told, credits=0.0064), EXACT),
    "a cost is of another balance": ("costs", lambda told: _told(told, balance="gold"), EXACT),
    "a cost is not told": ("costs", lambda told: [], EXACT),
    "a cost is told twice": ("costs", lambda told: [*told, *told], EXACT),
    "a cost without end": ("costs", lambda told: [*told, Cost("x", "y", Decimal(1) / 3)], EXACT),
    "a cost of nothing": ("costs", lambda told: [*told, Cost("x", "y", Decimal(0))], EXACT),
    "a cost that could not be read is none": (
        "costs",
        lambda told: [] if isinstance(told, ReadFailed) else told,
        "test_invalid_response_is_not_read",
    ),
    "a balance is told in base units": (
        "drawn",
        lambda told: _drew(told, 1 / CreditBench.COST[1]),
        "test_balances_tell_what_was_drawn",
    ),
    "what was not given back is accepted": (
        "push",
        lambda outcomes: [Accepted() for _ in outcomes],
        "test_negative_push_without_balance_is_rejected_or_waits",
    ),
    "a part is there twice": ("customers", lambda found: _states(found, parts=(PART, PART)), FIELDS),
    "a part is floating": (
        "customers",
        lambda found: _states(found, parts=(replace(PART, granted=cast(Any, 0.1)),)),
        FIELDS,
    ),
    "the rest of a limit is floating": ("customers", lambda found: _states(found, feature_limits={"a": 0.1}), FIELDS),
    "what is refused is no name": ("customers", lambda found: _states(found, refused=frozenset({7})), FIELDS),
}


@cache
def require_passes(test: str) -> None:
    """Of the provider as it is."""
    suite = TestAutumnInCredits()
    suite.setup_method()
    getattr(suite, test)()
    suite.teardown_method()


@cases("wrong", WRONG_IN_CREDITS)
def test_conformance_suite_finds_wrong_credit_lookup(wrong: str) -> None:
    method, change, test = WRONG_IN_CREDITS[wrong]
    require_passes(test)
    suite = TestAutumnInCredits()
    suite.setup_method()

    async def changed(*asked: object) -> object:
        return change(await right(*asked))

    right = getattr(suite.bench.provider, method)
    setattr(suite.bench.provider, method, changed)
    with pytest.raises(AssertionError):
        getattr(suite, test)()
    suite.teardown_method()
