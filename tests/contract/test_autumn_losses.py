"""Faults of an emulated Autumn account with a credit system: each leaves the truth exact, in base units and credits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from drawdown.providers.http import Answer, Call
from drawdown.providers.kit.emulator import FaultPlan
from tests.cases import cases
from tests.emulators.autumn import SECRET_KEY, STALE_MS, AutumnEmulator
from tests.emulators.autumn_numbers import ONE_OFF
from tests.emulators.serve import home_autumn

NOW_MS = 1_795_156_920_000


@dataclass
class World:
    """An account with credits, and one customer with 10 of them."""

    autumn: AutumnEmulator = field(default_factory=AutumnEmulator)
    now_ms: int = NOW_MS

    def __post_init__(self) -> None:
        account = self.autumn.account
        account.add_feature("compute_4gb")
        account.add_feature("compute_64gb")
        schema = {"compute_4gb": 0.0004, "compute_64gb": 0.0064}
        account.add_feature("credits", kind="credit_system", credit_schema=schema)
        account.add_customer("acme", NOW_MS)
        account.grant("acme", "credits", 10, NOW_MS, interval=ONE_OFF)

    def call(self, route: str, **body: object) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {SECRET_KEY}"}
        call = Call("POST", f"https://api.test/v1/{route}", headers, json.dumps(body).encode())
        answer = self.autumn.handle(call, self.now_ms)
        assert isinstance(answer, Answer)
        return answer.status, json.loads(answer.body)

    def track(self, key: str, value: float, feature: str = "compute_4gb") -> tuple[int, Any]:
        return self.call(
            "track", customer_id="acme", feature_id=feature, value=value, overage_behavior="overflow",
            idempotency_key=key, timestamp=self.now_ms,
        )  # fmt: skip

    def usage(self) -> float:
        told = self.call("customers.get", customer_id="acme")[1]["balances"]
        return float(told["credits"]["usage"]) if told else 10.0

    def events(self) -> list[Any]:
        self.now_ms += 2_000
        return list(self.call("events.list", customer_id="acme")[1]["list"])

    def strike(self, kind: str) -> None:
        self.autumn.faults.rates = {kind: 1.0} if kind else {}


def test_autumn_slow_store_charges_after_202_without_event() -> None:
    world = World()
    world.strike("queued_charged_no_event")
    assert world.track("a", 1000) == (202, {"customer_id": "acme", "value": 1000, "balance": None})
    world.strike("")
    assert world.usage() == 0.4 and world.events() == []
    assert world.autumn.charged_under("a") == 1000
    assert [one.key for one in world.autumn.account.eventless] == ["a"]
    assert world.track("a", 1000)[0] == 409, "its key is claimed"


def test_lost_balance_store_undoes_unsynced_draws_but_not_events() -> None:
    world = World()
    account = world.autumn.account
    account.store.sync_ms = None
    world.track("a", 1000)
    world.autumn.sync()
    world.track("b", 2000)
    world.track("c", 100, "compute_64gb")
    world.track("d", -500)
    world.autumn.lose_balances(world.now_ms)
    assert world.usage() == 0.4
    assert account.undone == {("acme", "credits"): Decimal("1.24")}, "0.8 + 0.64 - 0.2"
    assert account.drawn["acme", "credits"] == Decimal("0.4")
    assert {key: account.by_key.get(key) for key in "abcd"} == {"a": 1000, "b": None, "c": None, "d": None}
    assert sum(account.truth.values()) == 1000
    assert [one["value"] for one in world.events()] == [-500, 100, 2000, 1000]
    assert world.track("b", 2000)[0] == 409
    assert {one.key for one in account.undrawn} == {"b", "c", "d"}


@cases(("kind", "lost"), [("event_lost", ["a"]), ("queued_charged_no_event", []), ("", [])])
def test_charge_without_event_lost_by_store_is_listed_if_answered(kind: str, lost: list[str]) -> None:
    """A person makes up for it: its answer was a success, and neither an event nor the balance shows it."""
    world = World()
    account = world.autumn.account
    world.strike(kind)
    world.track("a", 1000)
    world.strike("")
    world.autumn.lose_balances(world.now_ms)
    assert ([one.key for one in account.lost], account.eventless) == (lost, [])
    assert [one.key for one in account.undrawn] == ([] if kind else ["a"])
    assert world.usage() == 0


def test_balance_loss_is_limited_to_draws_since_last_sync() -> None:
    world = World()
    world.track("a", 1000)
    world.now_ms += 61_000
    world.track("b", 1000)
    world.autumn.lose_balances(world.now_ms)
    assert world.autumn.account.undone == {("acme", "credits"): Decimal("0.4")}
    assert world.autumn.charged_under("a") == 1000 and world.autumn.charged_under("b") is None


def test_used_up_grant_returns_with_loss_of_its_last_charge() -> None:
    world = World()
    world.track("a", 10, "credits")
    assert world.call("customers.get", customer_id="acme")[1]["balances"] == {}
    world.autumn.lose_balances(world.now_ms)
    assert world.usage() == 0 and world.autumn.account.undone["acme", "credits"] == 10
    assert world.autumn.account.customers["acme"].spent == []


def test_manual_balance_change_survives_loss_of_charges() -> None:
    world = World()
    world.track("a", 1000)
    world.call("balances.update", customer_id="acme", feature_id="credits", add_to_balance=2)
    world.autumn.lose_balances(world.now_ms)
    assert world.usage() == -2


def test_stale_read_shows_customer_before_charge() -> None:
    world = World()
    world.autumn.faults = FaultPlan(seed=3, rates={"stale_read": 1.0})
    world.usage()  # from now on the past is kept
    world.now_ms += 2 * STALE_MS
    world.track("a", 1000)
    seen = [world.usage() for _ in range(20)]
    assert set(seen) == {0.0}, "each is at least a moment older than the charge"
    world.now_ms += STALE_MS // 2
    assert {world.usage() for _ in range(40)} == {0.0, 0.4}
    world.now_ms += STALE_MS
    assert world.usage() == 0.4


def test_claimed_key_or_dropped_queue_does_not_take_credits() -> None:
    world = World()
    for key, fault in (("a", "claimed_not_applied"), ("b", "queued_dropped")):
        world.strike(fault)
        call = Call("POST", "https://api.test/v1/track", {"authorization": f"Bearer {SECRET_KEY}"}, json.dumps(
            {"customer_id": "acme", "feature_id": "compute_4gb", "value": 1, "idempotency_key": key}
        ).encode())  # fmt: skip
        world.autumn.handle(call, world.now_ms)
        world.strike("")
        assert world.track(key, 1)[0] == 409
    world.now_ms += 120_000
    assert world.usage() == 0 and world.autumn.account.truth == {} and world.events() == []


def test_key_store_that_fails_open_doubles_credits_exactly() -> None:
    world = World()
    world.autumn.key_store = "refusing"
    for _ in range(2):
        assert world.track("a", 0.1)[0] == 200
    (double,) = world.autumn.doubles
    assert double.value == Fraction(1, 10) and double.parts == (("credits", Decimal("0.00004")),)
    assert world.autumn.account.drawn["acme", "credits"] == Decimal("0.00008")


def test_thousand_charges_sum_to_exact_credits() -> None:
    world = World()
    world.autumn.account.grant("acme", "credits", 10**6, NOW_MS)
    for n in range(1_000):
        world.now_ms += 1
        world.track(f"k{n}", 0.3)
    assert world.autumn.account.drawn["acme", "credits"] == Decimal("0.12")
    assert sum(world.autumn.charged_by().values()) == 300
    assert world.usage() == 0.12


def test_home_emulator_account_is_charged_in_credits() -> None:
    autumn = home_autumn(NOW_MS)
    headers = {"authorization": f"Bearer {SECRET_KEY}"}
    body = json.dumps({"customer_id": "alice", "feature_id": "compute_64gb", "value": 100}).encode()
    answer = autumn.handle(Call("POST", "https://api.test/v1/track", headers, body), NOW_MS)
    assert isinstance(answer, Answer)
    told = json.loads(answer.body)
    assert told["balance"]["feature_id"] == "credits" and told["balance"]["remaining"] == 999.36
    schema = autumn.account.features["credits"].shown()["credit_schema"]
    assert isinstance(schema, list) and {"metered_feature_id": "compute_64gb", "credit_cost": 0.0064} in schema
