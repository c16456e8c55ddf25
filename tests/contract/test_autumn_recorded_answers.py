"""Each recorded answer of an Autumn with a credit system, shown to our provider, with the outcome that it must have.

Guarantee: a recorded call is in one of the tables, or in `LEFT_OUT` with a reason. A test fails for a call in neither
and for a call in both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from drawdown.providers.autumn import AutumnProvider
from drawdown.providers.http import Answer, Call
from drawdown.providers.protocol import (
    Accepted,
    CustomerChanged,
    CustomerState,
    Duplicate,
    FoundPush,
    LookupResult,
    NoCustomer,
    Outcome,
    Part,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.units import MICRO
from tests.cases import cases
from tests.contract.autumn_credits import CALLS, COSTS, Recorded, needs_recording, provider
from tests.contract.autumn_setup import NOW_MS, Stub, done, made, one, said, stubbed
from tests.official import Webhook

pytestmark = needs_recording
T = TypeVar("T")
CREDITS: Final = {cost.feature: cost.credits for cost in COSTS} | {"credits": Decimal(1)}


def each(names: str, told: T) -> dict[str, T]:
    return dict.fromkeys(names.split(), told)


LEFT_OUT: Final = {
    **each("I1 I2 I3 I4 I5 I6 I7 I8", "events.aggregate sums what was asked: Drawdown adds up events"),
    **each("J1 J2 J3 J4 J5 J6 B2-16", "balances.create is the operator's: Drawdown grants nothing"),
    **each("J9 J11 J13 J14 J16 J17 J18 J20 J22", "balances.update is the operator's: Drawdown draws by charges alone"),
    **each("J24 J25 J26 J27 J29 L15", "balances.update is the operator's: Drawdown draws by charges alone"),
    "B2-3": "customers.update is the operator's: Drawdown changes no customer",
    **each("C3 C29", "a fraction of a unit: Drawdown bills whole units"),
    **each("G19 G20 L12", "check without a balance: Drawdown decides by customers.get alone (B14, L11)"),
    "C43": "a check of one api_key: our charges carry no such property",
    "H13": "a cursor that is no cursor: Drawdown sends the server's own",
}
"""Why a recorded answer is not shown to the provider."""


# Charges


def told(outcome: Outcome) -> str:
    match outcome:
        case Accepted():
            return "charged"
        case Queued():
            return "looked up"
        case Duplicate():
            return "a repeat"
        case Rejected(until_credit=waits):
            return "waits for credit" if waits else "for a person"
        case RetryAt(by_person=False):
            return "sent again"
        case Unknown():
            return "unknown"
    return repr(outcome)


WHOLE: Final = each(
    "C1 C2 C4 C6 C8 C9 C11 C16 C17 C18 C20 C22 C23 C24 C25 C26 C28 C32 C33 C34 C37 C40 C41 C46 C49 D1 D6 D8 D9 D11 "
    "F8 G8 J8 K1 K2 K3 B2-1 B2-5 B2-11 B2-12",
    "charged",
)
PARTLY: Final = {"C12": 469, "C15": 469, "K5": 4688, "C30": 2157, "C35": 1563}
"""What a limit let through, in units: a unit that was charged in part counts as one."""
NO_BALANCE: Final = each("B2-9 C31 C51 F4 F5", "does not have a balance of")
AT_A_LIMIT: Final = each("C14 C36 D12 K6", "a limit at")
CHARGES: Final = {
    **WHOLE,
    **dict.fromkeys(PARTLY, "looked up"),
    **dict.fromkeys(NO_BALANCE | AT_A_LIMIT, "waits for credit"),
    # 202, also to a customer that is unknown.
    **each("E1 E3 E5 L2 L4 L8 L9 L13 L14", "looked up"),
    **each("D2 D3 D4 D5 D7 D13 L5 L10 L19", "a repeat"),
    **each("D10 E4 F1 F3 F6 C38", "for a person"),
    "B2-14": "waits for credit",
    "F7": "sent again",
    # Below 2.1.0 no answer says what was deducted.
    **each("C50 K4 K7 K8", "unknown"),
}


def charge(call: Recorded) -> PushRequest:
    """The push that this charge would be. One was recorded with text for its value (F6)."""
    return replace(call, asked={**call.asked, "value": int(call.asked["value"])}).push


@cases("name", CHARGES)
def test_recorded_charge_maps_to_expected_outcome(name: str) -> None:
    assert told(one(provider(CALLS[name].answer), charge(CALLS[name]))) == CHARGES[name]


@cases(("name", "words"), (NO_BALANCE | AT_A_LIMIT).items())
def test_recorded_charge_that_took_zero_is_rejected_with_reason(name: str, words: str) -> None:
    found = one(provider(CALLS[name].answer), charge(CALLS[name]))
    assert isinstance(found, Rejected) and words in found.reason and "once Autumn shows credit" in found.reason


def test_recorded_refund_that_gave_zero_is_rejected_with_reason() -> None:
    found = one(provider(CALLS["B2-14"].answer), charge(CALLS["B2-14"]))
    assert isinstance(found, Rejected) and "did not refund" in found.reason


def looked_up(call: Recorded) -> LookupResult:
    """The recorded charge found again in the list of events, where it stands with the same deductions."""
    event = {
        "id": "evt-1", "timestamp": call.push.ts, "feature_id": call.asked["feature_id"],
        "customer_id": call.asked["customer_id"], "value": call.asked["value"],
        "properties": {"drawdown_key": call.push.key}, "deductions": call.body["deductions"] or None,
    }  # fmt: skip
    return done(provider(said(200, {"list": [event], "next_cursor": None})).lookup(call.push))


@cases("name", [*WHOLE, *PARTLY, *NO_BALANCE, *AT_A_LIMIT, "B2-14"])
def test_recorded_charge_lookup_returns_quantity_taken(name: str) -> None:
    asked = CALLS[name].asked["value"] if name in WHOLE else 0
    assert looked_up(CALLS[name]) == FoundPush(PARTLY.get(name, asked))


# Customers

CUSTOMERS: Final[Mapping[str, tuple[object, object] | str]] = {
    "B1": (100, 0), "B2": (100, 0), "B3": (1075, 0), "B4": (1075, 0), "B5": (50, 0), "B6": (50, 0),
    "B7": (None, 0), "B8": (None, 0), "B9": (500, 0), "B10": (500, 0), "B11": (15, 0), "B12": (18, 0), "B13": (0, 0),
    "B14": "no customer", "B15": "no customer", "B16": "unread", "B17": "unread",
    "B2-2": (8, 2), "B2-4": (8, 2), "B2-6": (13, -3), "B2-7": (0, 0), "B2-10": (0, "3.2"), "B2-13": (0, 0),
    "B2-15": (0, 0),
    "C5": (0, 1205), "C7": (0, "3.2"), "C10": ("9.88", "0.12"), "C13": (0, 3), "C19": (0, "19.2"), "C21": (0, 16),
    "C27": ("13.8", "-3.8"), "C39": (0, "16.4"), "C42": ("99.68", "0.32"), "C47": (7, 1), "C48": (3, 0),
    "D14": ("9.8396", "0.1604"),
    "E2": (10, 0), "E6": ("9.2", "0.8"), "E8": (0, 0), "F2": "no customer",
    "J7": (25, 0), "J10": (29, -9), "J12": (25, -5), "J15": (3, 17), "J19": ("2.16", "-1.16"), "J21": (3, 7),
    "J23": (3, 7), "J28": ("7.0005", "2.9995"), "J30": (0, "102.9995"),
    "L1": (10, 0), "L3": ("9.5996", "0.4004"), "L6": ("9.5996", "0.4004"), "L7": ("9.5996", "0.4004"), "L11": "unread",
    "L16": ("9.5996", "0.4004"), "L17": ("8.7996", "1.2004"), "L20": (10, 0), "L21": ("8.5996", "1.4004"),
    "L23": (0, 0), "L24": (10, 0),
}  # fmt: skip
"""Credits that the customer can spend (None: without end) and has drawn in this cycle; or why there are none."""


@cases("name", CUSTOMERS)
def test_recorded_customer_balance_and_drawn_match_recording(name: str) -> None:
    call, expected = CALLS[name], CUSTOMERS[name]
    customer_id = call.asked.get("customer_id", "org-01")
    autumn = provider(call.answer)
    found, drawn = done(autumn.customers([customer_id]))[customer_id], done(autumn.drawn(customer_id))
    if isinstance(expected, str):
        assert isinstance(found, NoCustomer if expected == "no customer" else ReadFailed)
        assert isinstance(drawn, ReadFailed)
        return
    assert isinstance(found, CustomerState) and isinstance(drawn, dict)
    spendable, used = (None if figure is None else Decimal(str(figure)) for figure in expected)
    assert found.balance_micro == (None if spendable is None else int(spendable * MICRO)) and found.refused == set()
    assert drawn["credits"].quantity == used


def test_recorded_balance_parts_are_single_or_plan_grants() -> None:
    def parts(name: str) -> tuple[Part, ...]:
        customer_id = CALLS[name].asked["customer_id"]
        found = done(provider(CALLS[name].answer).customers([customer_id]))[customer_id]
        assert isinstance(found, CustomerState)
        return found.parts

    shown = [(part.name, part.begins_again) for part in parts("B3")]
    assert shown == [("bal-02", True), ("topup-1", False), ("topup-2", False)], "the first is what the plan grants"
    assert parts("B5")[0] == Part("credits", "promo-1", Decimal(40), 1797009571925, used=Decimal(0))
    assert [part.used for part in parts("C47")] == [1, None], "a part that ends tells what was drawn from it"


# Checks: our verdict is that of Autumn's own `check`

CHECKS: Final = each(
    "G1 G2 G3 G4 G5 G6 G7 G9 G10 G11 G12 G13 G14 G15 G16 G17 G18 G21 C44 C45 B2-8", "our verdict is Autumn's"
)
UNSHOWN: Final[Mapping[str, Any]] = {
    "org-18": {"usage_limits": [{"feature_id": "compute_64gb", "enabled": True, "limit": 600, "interval": "day",
                                 "usage": 1000, "source": "customer"}]},
}  # fmt: skip
"""Controls that the recording tells in words: it has no customers.get of these."""


def at_that_moment(check: Recorded, *, without_source: bool) -> dict[str, Any]:
    """The customer as Autumn showed it: the last customers.get before the check, with the check's own balance."""
    name = check.asked["customer_id"]
    before = {"id": name, "subscriptions": [], "billing_controls": UNSHOWN.get(name, {})}
    for call in CALLS.values():
        if call is check:
            break
        if call.route == "customers.get" and call.status == 200 and call.asked.get("customer_id") == name:
            before = call.body
    shown = check.body["balance"]
    balances = {} if shown is None else {shown["feature_id"]: shown}
    found: dict[str, Any] = json.loads(json.dumps({**before, "id": name, "balances": balances}))
    for entries in found["billing_controls"].values() if without_source else ():
        for entry in entries:
            entry.pop("source", None)
    return found


@cases("without_source", [False, True])
@cases("name", CHECKS)
def test_recorded_check_agrees_with_balance_and_refused_features(name: str, without_source: bool) -> None:
    check = CALLS[name]
    customer_id, feature = check.asked["customer_id"], check.asked["feature_id"]
    shown = said(200, at_that_moment(check, without_source=without_source))
    found = done(provider(shown).customers([customer_id]))[customer_id]
    assert isinstance(found, CustomerState)
    micro, required = found.balance_micro, Decimal(str(check.asked.get("required_balance", 1)))
    enough = micro is None or (micro > 0 and micro >= required * CREDITS[feature] * MICRO)
    assert (enough and feature not in found.refused) == check.body["allowed"]


# Events

EVENTS: Final[Mapping[str, Mapping[str, int] | str]] = {
    "E7": {"compute_4gb": 2000}, "H1": {"compute_64gb": 3500}, "H2": {"compute_8gb": 50}, "H3": {"compute_64gb": 469},
    "H4": {"compute_4gb": 0}, "H5": {"compute_64gb": 500}, "H6": {}, "H7": "unread", "H8": {"compute_64gb": 1000},
    "H9": {"compute_4gb": 2000}, "H10": {"compute_64gb": 3500}, "H11": {"compute_64gb": 2000},
    "H12": {"compute_64gb": 0}, "H14": {"compute_64gb": 3500}, "H15": {}, "H16": {}, "L18": {"compute_4gb": 3001},
    "L22": {"compute_4gb": 3501}, "M1": "too many", "M2": {"compute_4gb": 0},
}  # fmt: skip
"""Units deducted by feature; or why they are not known. A page goes on at its cursor: H10 with H11, others are last."""


def paged(first: Recorded) -> AutumnProvider:
    """Answers a question without a cursor with this page, and with H10's cursor H11."""
    after = {CALLS["H10"].body["next_cursor"]: CALLS["H11"].answer}

    def answer(call: Call) -> Answer:
        cursor = json.loads(call.body).get("start_cursor")
        return after.get(cursor, said(200, {"list": [], "next_cursor": None})) if cursor else first.answer

    return provider(answer)


@cases("name", EVENTS)
def test_recorded_event_totals_match_deductions(name: str) -> None:
    call, expected = CALLS[name], EVENTS[name]
    found = done(paged(call).totals(call.asked["customer_id"], 0, 2 * NOW_MS))
    if isinstance(expected, str):
        assert isinstance(found, ReadFailed) and found.too_many is (expected == "too many")
    else:
        assert found == expected


# Features and webhooks


@cases("name", ["A1", "A2"])
def test_recorded_credit_schema_has_expected_costs(name: str) -> None:
    assert done(made(Stub(CALLS[name].answer)).costs(())) == COSTS


WEBHOOKS: Final = {
    "N1": "02", "N2": "02", "N3": "07", "N4": "10", "N5": "11", "N6": "19", "N7": "19", "N8": "06", "N9": "40",
}  # fmt: skip
SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@cases("name", WEBHOOKS)
def test_recorded_webhook_reports_its_customer(name: str) -> None:
    body = json.dumps(CALLS[name].body)
    signature = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(NOW_MS // 1000, UTC), body)
    headers = {"svix-id": "msg_1", "svix-timestamp": str(NOW_MS // 1000), "svix-signature": signature}
    autumn = stubbed(CALLS["L11"].answer, webhook_secrets=SECRET)
    assert done(autumn.notices(headers, body.encode(), NOW_MS)) == [CustomerChanged(f"org-{WEBHOOKS[name]}")]


# All of them

ROUTES: Final[Mapping[str, Mapping[str, object]]] = {
    "track": CHARGES,
    "customers.get": CUSTOMERS,
    "check": CHECKS,
    "events.list": EVENTS,
    "features.list": dict.fromkeys(("A1", "A2")),
    "": WEBHOOKS,
}


def test_recorded_calls_are_each_shown_or_excluded_with_reason() -> None:
    shown = {name: route for route, names in ROUTES.items() for name in names}
    assert sum(len(names) for names in ROUTES.values()) == len(shown)
    assert {name: CALLS[name].route for name in shown} == shown
    assert CALLS.keys() - shown.keys() == LEFT_OUT.keys(), "each call that is not shown, and no other"
