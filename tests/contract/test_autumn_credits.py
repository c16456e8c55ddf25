"""Charges in credits at Autumn: costs, and what a charge took, by the recorded answers."""

from __future__ import annotations

import asyncio
import json
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.providers.autumn.credits import (
    LIST_AGAIN_MS,
    MOST_COSTS,
    MOST_NAMES,
    SCHEMA_AGE_MS,
    Deduction,
    KnownCosts,
    Units,
    Untold,
    charged,
    decimals,
    read_features,
)
from drawdown.providers.autumn.customers import Controls, UsageLimit, read_customer, state
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.http import Answer, Call
from drawdown.providers.protocol import (
    Accepted,
    CannotTell,
    Cost,
    CustomerState,
    FoundPush,
    Outcome,
    Part,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.providers.validated_provider import MAX_DECIMALS
from drawdown.schema.clock import FixedClock
from tests.cases import cases
from tests.contract.autumn_credits import COSTS, FEATURES, Recorded, account, calls, provider
from tests.contract.autumn_setup import NOW_MS, WINDOW, Stub, done, made, no, one, push, said

FEATURE = "compute_4gb"


def schema(**costs: object) -> dict[str, object]:
    """An account with one credit system over these features."""
    metered = [{"id": name, "type": "metered", "consumable": True} for name in costs]
    part = [{"metered_feature_id": name, "credit_cost": cost} for name, cost in costs.items()]
    return {"list": [*metered, {"id": "credits", "type": "credit_system", "credit_schema": part}]}


def took(*amounts: object, of: str = "credits", balance: object = "shown") -> Answer:
    """The answer to a charge."""
    shown = {"feature_id": "credits", "granted": 100, "remaining": 93, "usage": 7} if balance == "shown" else balance
    told = [{"balance_id": "b", "feature_id": of, "plan_id": None, "reset": None, "value": one} for one in amounts]
    return said(200, {"customer_id": "cus_1", "value": 7, "balance": shown, "deductions": told})


def charge(quantity: int = 1_000, feature: str = FEATURE) -> PushRequest:
    return push(quantity, feature=feature)


# Costs


def test_costs_of_recorded_list_are_exact_decimals() -> None:
    found = done(made(Stub(account(said(500, "")))).costs(()))
    assert found == COSTS and [str(cost.credits) for cost in found][:3] == ["0.0001", "0.0002", "0.0004"]


@pytest.mark.parametrize("call", [pytest.param(call, id=call.name) for call in calls("features.list")])
@pytest.mark.data
def test_costs_of_recorded_credit_schema_are_read(call: Recorded) -> None:
    assert done(made(Stub(call.answer)).costs(())) == COSTS


@cases("cost", [0, -1, 1.23e-11, "0.1", None])
def test_costs_with_unusable_value_are_omitted(cost: object) -> None:
    found = done(made(Stub(account(said(500, ""), schema(compute=cost, other=0.5)))).costs(()))
    assert found == [Cost("other", "credits", Decimal("0.5"))]


@cases(
    ("cost", "digits"),
    [("1." + "0" * 30 + "1", 31), ("0.5", 1), ("0.50", 1), ("1e2", 0), ("100", 0), ("0.00", 0), ("1e-400", 400)],
)
def test_decimals_of_cost_are_counted_exactly(cost: str, digits: int) -> None:
    assert decimals(Decimal(cost)) == digits
    listed = {feature.feature for feature in read_features(schema(compute=Decimal(cost))).costs()}
    assert (listed == {"compute"}) is (digits <= MAX_DECIMALS and Decimal(cost) > 0)


def test_feature_of_two_credit_systems_is_omitted_from_costs() -> None:
    both: Any = schema(compute=0.5, other=2)
    both["list"].append({**both["list"][-1], "id": "gold", "credit_schema": both["list"][-1]["credit_schema"][:1]})
    assert done(made(Stub(account(said(500, ""), both))).costs(())) == [Cost("other", "credits", Decimal(2))]


def test_costs_without_credit_system_are_empty_and_failure_is_reported() -> None:
    assert done(made(Stub(said(200, {"list": []}))).costs(())) == []
    assert isinstance(done(made(Stub(no(503, "service_unavailable"))).costs(())), ReadFailed)


@cases(
    ("listed", "is_unread"),
    [
        (schema(**{FEATURE: "0.5"}), True),
        (schema(**{FEATURE: 0}), True),
        ({"list": []}, True),
        ({"list": [{"id": "credits", "type": "credit_system"}]}, True),
        ({"list": [{"id": "gold", "type": "credit_system", "credit_schema": []}]}, True),
        ({"list": [{"id": "credits", "type": "credit_system", "credit_schema": [{"credit_cost": 1}]}]}, True),
        ({"list": [{"id": "credits", "type": "credit_system", "credit_schema": []}]}, False),
        ({"list": [{"id": "credits", "type": "credit_system", "archived": True}]}, False),
        (schema(other=0.5), False),
    ],
)
def test_known_cost_of_unreadable_list_is_marked_unread(listed: object, is_unread: bool) -> None:
    known = [Cost(FEATURE, "credits", Decimal("0.2")), Cost(FEATURE, "credits", Decimal("0.4"))]
    found = done(made(Stub(account(said(500, ""), listed))).costs(known))
    assert not isinstance(found, ReadFailed)
    unread = [Cost(FEATURE, "credits", Decimal("0.4"), unread=True)]
    assert [cost for cost in found if cost.feature == FEATURE] == (unread if is_unread else [])


# Costs that change, and costs that are not known


def listed(*deductions: object, value: object = 1_000, of: str = "credits") -> Answer:
    told = [{"balance_id": "b", "feature_id": of, "value": one} for one in deductions]
    event = {
        "id": "evt-1", "timestamp": WINDOW, "feature_id": FEATURE, "customer_id": "cus_1", "value": value,
        "properties": {"drawdown_key": push().key}, "deductions": told,
    }  # fmt: skip
    return said(200, {"list": [event], "next_cursor": None})


OLD = Cost(FEATURE, "credits", Decimal("0.0007"))


def test_charge_at_older_known_cost_is_accepted_and_found() -> None:
    assert one(provider(took(0.7), known=(OLD,)), charge()) == Accepted()
    assert done(provider(listed(0.7), known=(OLD,)).lookup(charge())) == FoundPush(1_000)


def test_answer_and_event_report_cost_of_charge() -> None:
    for taken, cost in ((0.7, "0.0007"), (0.4, "0.0004")):
        accepted = one(provider(took(taken), known=(OLD,)), charge())
        assert isinstance(accepted, Accepted) and accepted.cost == Decimal(cost)
        found = done(provider(listed(taken), known=(OLD,)).lookup(charge()))
        assert isinstance(found, FoundPush) and found.cost == Decimal(cost)
    own = one(provider(took(1_000, of=FEATURE)), charge())
    assert isinstance(own, Accepted) and own.cost is None, "no credits were drawn"


def test_charge_answer_reports_balance_parts() -> None:
    once = {"id": "top-up", "plan_id": None, "included_grant": 5, "reset": None, "expires_at": None}
    plan = {"id": "cus_ent_1", "plan_id": "pro", "included_grant": 9, "reset": {"interval": "month"}}
    shown = {"feature_id": "credits", "granted": 14, "remaining": 7, "usage": 7, "breakdown": [once, plan]}
    accepted = one(provider(took(0.4, balance=shown)), charge())
    assert isinstance(accepted, Accepted)
    assert accepted.parts == (
        Part("credits", "top-up", Decimal(5)),
        Part("credits", "cus_ent_1", Decimal(9), plan="pro"),
    )
    assert [part.begins_again for part in accepted.parts] == [False, True]


def test_partial_charge_with_several_known_costs_is_unresolved() -> None:
    assert isinstance(one(provider(took(0.3), known=(OLD,)), charge()), Queued)
    found = done(provider(listed(0.3), known=(OLD,)).lookup(charge()))
    assert isinstance(found, CannotTell) and "0.3 of credits" in found.reason
    assert isinstance(done(provider(listed(0.3), known=(OLD,)).totals("cus_1", 0, 2 * NOW_MS)), ReadFailed)


def test_charge_above_requested_units_at_unknown_cost_is_unresolved() -> None:
    assert isinstance(one(provider(took(0.5)), charge()), Queued)
    found = done(provider(listed(0.5)).lookup(charge()))
    assert isinstance(found, CannotTell) and "0.5 of credits" in found.reason


def test_credits_charged_for_feature_without_cost_are_unresolved() -> None:
    accounts: list[object] = [schema(other=1), schema(compute_4gb=0), {"list": []}]
    for features in accounts:
        assert isinstance(one(provider(took(0.4), features), charge()), Queued)
        found = done(provider(listed(0.4), features).lookup(charge()))
        assert isinstance(found, CannotTell) and "0.4 of credits" in found.reason


class Account:
    """Answers charges, events and features; its schema can change."""

    def __init__(self, features: object = FEATURES) -> None:
        self.features, self.track, self.events = features, took(0.4), listed(0.4)
        self.asked: list[str] = []

    def __call__(self, call: Call) -> Answer:
        route = call.url.rpartition("/")[2]
        self.asked.append(route)
        body = {"customers.get": said(200, {"id": "cus_1", "subscriptions": [], "balances": {}})}
        if route == "features.list":
            return self.features if isinstance(self.features, Answer) else said(200, self.features)
        return {"track": self.track, "events.list": self.events, **body}[route]


def test_cost_changed_during_charge_is_reread_before_judging() -> None:
    world, clock = Account(), FixedClock(NOW_MS)
    autumn = made(Stub(world), at=clock)
    done(autumn.costs(()))
    world.features, world.track, world.events = schema(compute_4gb=0.0005), took(0.5), listed(0.5)
    assert one(autumn, charge()) == Accepted()
    assert done(autumn.lookup(charge())) == FoundPush(1_000)
    assert world.asked.count("features.list") == 2, "once for the tick, and once for the charge that did not match"
    # A lower one would look like a part of the charge.
    world.features, world.events = schema(compute_4gb=0.0003), listed(0.3)
    assert done(autumn.lookup(charge())) == FoundPush(1_000)


def test_features_list_is_read_once_per_interval_for_unmatched_charges() -> None:
    world, clock = Account(), FixedClock(NOW_MS)
    world.track = took(0.1)
    autumn = made(Stub(world), at=clock)
    for _ in range(20):
        assert isinstance(one(autumn, charge()), Queued)
    assert world.asked.count("features.list") == 1
    clock.at_ms += LIST_AGAIN_MS
    one(autumn, charge())
    assert world.asked.count("features.list") == 2


def test_features_list_is_read_once_for_concurrent_charges() -> None:
    world = Account()

    class Slow(Stub):
        async def send(self, call: Call) -> Any:
            await asyncio.sleep(0.001 if call.url.endswith("track") else 0.01)
            return await super().send(call)

    autumn = made(Slow(world))

    async def together() -> list[Outcome]:
        return [one[0] for one in await asyncio.gather(*(autumn.push([charge()]) for _ in range(20)))]

    assert asyncio.run(together()) == [Accepted()] * 20
    assert world.asked.count("features.list") == 1


def test_customer_reads_refresh_schema_after_maximum_age() -> None:
    world, clock = Account(), FixedClock(NOW_MS)
    autumn = made(Stub(world), at=clock)
    for later_ms, lists in ((0, 1), (SCHEMA_AGE_MS, 1), (1, 2), (SCHEMA_AGE_MS, 2)):
        clock.at_ms += later_ms
        assert done(autumn.customers(["cus_1"]))["cus_1"] == CustomerState(0, None, None)
        assert world.asked.count("features.list") == lists
    world.features = no(503, "service_unavailable")
    clock.at_ms += SCHEMA_AGE_MS
    assert done(autumn.customers(["cus_1"]))["cus_1"] == CustomerState(0, None, None), "the one that is known stands"


def test_partial_charge_before_known_costs_are_loaded_fails_read() -> None:
    """Else a charge at an older cost would be taken for a part, and the rest billed again."""
    autumn = made(Stub(account(listed(0.3))))
    assert isinstance(done(autumn.lookup(charge())), ReadFailed)
    assert isinstance(done(autumn.totals("cus_1", 0, 2 * NOW_MS)), ReadFailed)
    done(autumn.costs(()))
    assert done(autumn.lookup(charge())) == FoundPush(750)
    assert done(autumn.totals("cus_1", 0, 2 * NOW_MS)) == {FEATURE: 750}


def test_partial_charge_with_unreadable_cost_list_fails_read() -> None:
    world = Account()
    autumn = made(Stub(world))
    done(autumn.costs(()))
    world.features, world.events = no(503, "service_unavailable"), listed(0.3)
    assert isinstance(done(autumn.lookup(charge())), ReadFailed)
    world.events = listed(0.4)
    assert done(autumn.lookup(charge())) == FoundPush(1_000), "what matches a known cost needs no list"


# Conversion


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.integers(0, 3))
def test_requested_units_split_into_float_parts_are_exact(asked: int, size: int, parts: int) -> None:
    """A charge split into parts, each printed as JavaScript prints a double."""
    cost = size / 10_000
    shares = [asked // (parts + 1)] * parts
    shares.append(asked - sum(shares))
    told = sum((Decimal(repr(share * cost)) for share in shares), Decimal(0))
    known = (Decimal(repr(cost)),)
    assert charged(Deduction(Decimal(0), {"credits": told}), Decimal(asked), {"credits": known}) == Units(
        Decimal(asked), exact=True, cost=known[0]
    )
    one_less = told - known[0]
    found = charged(Deduction(Decimal(0), {"credits": one_less}), Decimal(asked), {"credits": known})
    assert (isinstance(found, Units) and not found.exact and found.quantity < asked) or not one_less


def test_partly_charged_unit_counts_as_whole_unit() -> None:
    costs = {"credits": (Decimal("0.0064"),)}
    cases = {"3": 469, "-3": -469, "0.0064": 1, "0.0001": 1, "2.9999999999999996": 469, "2.9952": 468}
    for credits, units in cases.items():
        asked = Decimal(500 if units > 0 else -500)
        found = charged(Deduction(Decimal(0), {"credits": Decimal(credits)}), asked, costs)
        is_whole = credits in ("0.0064", "2.9952")
        mean = Decimal("0.0064") if is_whole else Fraction(round(Decimal(credits), 10)) / units
        assert found == Units(Decimal(units), exact=False, cost=mean), "the credits that were taken are kept"
        assert isinstance(found, Units) and isinstance(found.cost, Decimal) is is_whole
    own = charged(Deduction(Decimal(2), {"credits": Decimal("0.0096")}), Decimal(500), costs)
    assert own == Units(Decimal(4), exact=False, cost=Fraction(224, 40_000)), "own units count at their cost"


@cases("digits", [14, 15, 17])
def test_own_units_of_charge_count_by_their_printed_digits(digits: int) -> None:
    """Credits paid for a part of a unit, so the own units need not be a decimal (life 600238)."""
    own = Decimal(f"{143_613_866 + 2 / 3:.{digits}g}")
    costs = {"credits": (cost := Decimal("0.0000015"),)}
    found = charged(Deduction(own, {"credits": Decimal(50)}), Decimal(176_947_200), costs)
    assert found == Units(Decimal(176_947_200), exact=True, cost=cost)
    one_less = charged(Deduction(own - 1, {"credits": Decimal(50)}), Decimal(176_947_200), costs)
    assert isinstance(one_less, Units) and not one_less.exact


def test_own_units_and_two_credit_systems_are_summed() -> None:
    costs = {"credits": (Decimal("0.5"), Decimal("0.25")), "gold": (Decimal(2),)}
    taken = Deduction(Decimal(100), {"credits": Decimal(5), "gold": Decimal(4)})
    assert charged(taken, Decimal(112), costs) == Units(Decimal(112), exact=True)
    assert charged(taken, Decimal(122), costs) == Units(Decimal(122), exact=True)
    assert isinstance(charged(taken, Decimal(130), costs), Untold)
    assert isinstance(charged(taken, None, {"gold": (Decimal(2),)}), Untold)


def test_charged_quantity_below_request_by_single_unit_is_not_exact() -> None:
    asked, cost = Decimal(9 * 10**15), Decimal("0.0001")
    near = Deduction(Decimal(0), {"credits": (asked - 1) * cost})
    found = charged(near, asked, {"credits": (cost,)})
    assert isinstance(found, Units) and (found.quantity, found.exact) == (asked - 1, False)


@cases(("cost", "waits"), [(0, False), (0.01, True)])
def test_charge_of_zero_cost_feature_is_rejected_without_wait_for_credit(cost: float, waits: bool) -> None:
    """No credit would change it: until the cost is repaired, the same usage would be sent again for ever."""
    autumn = made(Stub(account(took(), schema(**{FEATURE: cost}))))
    done(autumn.costs([]))
    found = one(autumn, charge())
    assert isinstance(found, Rejected) and found.until_credit is waits
    assert ("costs 0 in credit system credits" in found.reason) is not waits


BALANCE_OF_ITS_OWN = {"feature_id": FEATURE, "granted": 100, "remaining": 0, "usage": 100}
UNREADABLE = {"list": [{"id": "credits", "type": "credit_system"}]}
UNNAMED = {"list": [{"id": "credits", "type": "credit_system", "credit_schema": [{"credit_cost": 1}]}]}


@cases(
    ("listed", "balance", "waits"),
    [
        (schema(other=0.5), None, False),
        (schema(**{FEATURE: 0.5}), None, True),  # a grant that is used up exactly is gone
        (schema(other=0.5), BALANCE_OF_ITS_OWN, True),
        ({"list": schema(other=0.5)["list"][:1]}, None, True),  # type: ignore[index]  # no credit system at all
        (UNREADABLE, None, True),
        (UNNAMED, None, True),
    ],
)
def test_charge_of_feature_outside_credit_systems_waits_for_credit_or_fix(
    listed: object, balance: object, waits: bool
) -> None:
    found = one(made(Stub(account(took(balance=balance), listed))), charge())
    assert isinstance(found, Rejected) and found.until_credit is waits
    assert (
        f"{FEATURE} is not in a credit system, and customer cus_1 does not have a balance of it" in found.reason
    ) is not waits
    assert ("`drawdown push retry --state rejected --error 'not in a credit system'`" in found.reason) is not waits


def test_features_list_is_reread_before_feature_counts_as_unlisted() -> None:
    listed = schema(other=0.5)
    autumn = made(Stub(account(took(balance=None), listed)))
    done(autumn.costs([]))
    listed.update(schema(**{FEATURE: 0.5}))
    found = one(autumn, charge())
    assert isinstance(found, Rejected) and found.until_credit


# The idempotency key


class KeyStore:
    """Honours the key of the body, of the header, or both, in one space as Autumn does; counts what it charged."""

    def __init__(self, *, body: bool, header: bool) -> None:
        self.body, self.header = body, header
        self.claimed: set[str] = set()
        self.charged = 0

    def __call__(self, call: Call) -> Answer:
        if not call.url.endswith("/track"):
            return said(200, FEATURES)
        own = json.loads(call.body).get("idempotency_key")
        keys = [f"track:{own}"] if self.body and own else []
        keys += [call.headers["idempotency-key"]] if self.header else []
        for key in keys:
            if key in self.claimed:
                return no(409, "duplicate_idempotency_key", f"Another request with idempotency key {key}")
            self.claimed.add(key)
        self.charged += 1
        return took(7, of="compute")


@cases(("body", "header"), [(True, False), (False, True), (True, True)])
def test_repeated_push_is_duplicate_with_body_or_header_key(body: bool, header: bool) -> None:
    store = KeyStore(body=body, header=header)
    autumn = made(Stub(store))
    assert one(autumn) == Accepted()
    assert type(one(autumn, push(attempt=2))).__name__ == "Duplicate"
    assert one(autumn, push(key="another")) == Accepted()
    assert store.charged == 2


def test_rejected_body_key_is_retried_with_header_key_alone() -> None:
    """A 400 charges nothing and gives both keys back: the same push goes out again, by the header alone."""
    store = KeyStore(body=False, header=True)

    def strict(call: Call) -> Answer:
        if call.url.endswith("/track") and "idempotency_key" in json.loads(call.body):
            return no(400, "invalid_inputs", "Unrecognized key: idempotency_key")
        return store(call)

    autumn = made(http := Stub(strict))
    first = one(autumn)
    assert isinstance(first, RetryAt) and (first.at_ms, first.by_person) == (NOW_MS, False)
    assert one(autumn, push(attempt=2)) == Accepted()
    assert type(one(autumn, push(attempt=3))).__name__ == "Duplicate"
    assert one(autumn, push(key="another")) == Accepted()
    assert (store.charged, len([call for call in http.sent if call.url.endswith("/track")])) == (2, 4)
    assert "idempotency_key" in "".join(done(autumn.check([], []))), "a check says so before anything is billed"
    assert "idempotency_key" not in "".join(done(made(Stub(store)).check([], [])))


def test_charge_400_unrelated_to_key_is_rejected() -> None:
    autumn = made(Stub(account(no(400, "invalid_inputs", "value: must be a number"))))
    assert isinstance(one(autumn), Rejected)


def test_idempotency_key_header_is_sent_with_charges_only() -> None:
    http = Stub(account(took(7, of="compute")))
    autumn = made(http)
    one(autumn)
    done(autumn.customers(["cus_1"]))
    keys = [call.headers.get("idempotency-key") for call in http.sent]
    assert keys[0] is not None and keys[0].startswith("drawdown-usage-") and keys[0].isascii()
    assert set(keys[1:]) == {None}


def test_idempotency_key_unfit_for_header_is_sent_as_printable_ascii() -> None:
    http = Stub(took(7, of="compute"))
    one(made(http), push(key="usage:ö\r\nx-evil: 1"))
    (sent,) = [call.headers["idempotency-key"] for call in http.sent[:1]]
    assert sent.isascii() and sent.isprintable()


# Answers that nobody means


@cases("amount", ["1e-999999", "1e-999999999999"])
def test_amount_with_huge_exponent_is_unknown(amount: str) -> None:
    """Written out, it would take the memory; divided by, it is beyond all numbers."""
    body = took(7).body.replace(b'"value": 7}', f'"value": {amount}}}'.encode())
    assert amount.encode() in body
    assert isinstance(one(made(Stub(account(said(200, body), schema(**{FEATURE: 0.01})))), charge()), Unknown)


def test_charge_in_many_credit_systems_is_unresolved() -> None:
    systems = [f"system-{number}" for number in range(30)]
    costs = {system: [Decimal(number + 1) for number in range(30)] for system in systems}
    assert isinstance(charged(Deduction(Decimal(0), dict.fromkeys(systems, Decimal(1))), Decimal(7), costs), Untold)


def test_known_costs_are_bounded_per_feature_and_in_number() -> None:
    known = KnownCosts()
    known.add(Cost("a", "credits", Decimal(number + 1)) for number in range(2 * MOST_COSTS))
    assert len(known.of("a")["credits"]) == MOST_COSTS
    assert known.of("a")["credits"][-1] == 2 * MOST_COSTS, "the newest are kept"
    known.add(Cost(f"feature-{number}", "credits", Decimal(1)) for number in range(2 * MOST_NAMES))
    assert known.of(f"feature-{2 * MOST_NAMES - 1}") == {} and known.of("a") != {}


def test_remaining_units_of_many_features_need_few_comparisons() -> None:
    asked: list[int] = []

    class Counted(str):
        def __eq__(self, other: object) -> bool:
            asked.append(1)
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    controls = Controls(tuple(UsageLimit(Counted(f"feature-{number}"), Decimal(number)) for number in range(300)))
    assert controls.remaining_by_feature == {f"feature-{number}": number for number in range(300)}
    assert len(asked) < 3_000


def test_customer_with_thousands_of_credit_systems_is_read_within_2_s() -> None:
    """Balances times credit systems would be a minute, in which nobody else is asked."""
    costs = [
        {"id": f"s{number}", "type": "credit_system", "credit_schema": [{"metered_feature_id": f"f{number}"}]}
        for number in range(8_000)
    ]
    schema = read_features({"list": costs})
    shown = {"granted": 1, "remaining": 1, "usage": 0}
    customer = read_customer({"subscriptions": [], "balances": {f"f{number}": shown for number in range(8_000)}})
    begun = time.process_time()
    found = state(customer, AutumnSettings("autumn", None, "", (), None, "concurrency", {}, 1, 1), schema)
    assert found.balance_micro is not None and found.balance_micro > 0
    assert time.process_time() - begun < 2
