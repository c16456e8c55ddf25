"""Autumn as a payment service: what each answer means, against an emulator of it and against answers made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from drawdown.providers.autumn.payments import (
    MAX_CHARS,
    MAX_NAMED,
    MAX_READ_BYTES,
    METADATA,
    NEVER_MS,
    UNREAD_MS,
    AutumnPayments,
    attached,
    build,
)
from drawdown.providers.http import PUSH_ANSWER_BYTES, Answer, Call, HttpResult, NoAnswer
from drawdown.providers.http import NotSent as NeverLeft
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    FillsItself,
    InDoubt,
    Link,
    NeedsCustomer,
    NoLink,
    NotSent,
    OtherContent,
    Payment,
    PaymentService,
)
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import FixedClock
from tests.cases import cases
from tests.contract.autumn_setup import NOW_MS, Stub, done, no, said
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.autumn_payments import ATTACH_FAULTS, Books

BACK = "https://app.test/credits"
SETTINGS = {"secret_key": SECRET_KEY, "topup_plan": "topup", "topup_feature": "cents"}
CHARGE = Charge("topup:acme:7", "cus_1", 2000, "usd", "20 credits", NOW_MS)


class World:
    """An account with a customer who has a good card, and the service on it."""

    def __init__(self, rates: dict[str, float] | None = None, seed: int = 0) -> None:
        self.clock = FixedClock(NOW_MS)
        self.books = Books(cards={"cus_1": "good"})
        self.autumn = AutumnEmulator(faults=FaultPlan(seed, rates or {}), books=self.books)
        self.autumn.account.add_customer("cus_1", NOW_MS)
        self.service = service(Direct(self.autumn, self.clock), self.clock)

    def charge(self, **changes: Any) -> ChargeResult:
        return done(self.service.charge(replace(CHARGE, **changes)))

    def look_up(self) -> ChargeResult:
        return done(self.service.look_up(CHARGE))


def service(http: Any, clock: FixedClock | None = None, settings: Mapping[str, str] = SETTINGS) -> AutumnPayments:
    engine = sa.create_engine("sqlite://")
    return build(Setup("autumn", settings, clock or FixedClock(NOW_MS), http, engine))


def answer_of(**changes: Any) -> Answer:
    invoice = {"status": "paid", "stripe_id": "in_1", "total": 2000, "currency": "usd", "hosted_invoice_url": None}
    body = {"customer_id": "cus_1", "invoice": invoice, "payment_url": None, **changes}
    return said(200, {name: value for name, value in body.items() if value != "left out"})


def invoice(**changes: Any) -> dict[str, Any]:
    return {"status": "paid", "stripe_id": "in_1", "total": 2000, "currency": "usd", **changes}


def judged(result: HttpResult) -> ChargeResult:
    return attached(result, CHARGE, NOW_MS)


# What is declared, and what is sent.


def test_autumn_payment_service_declares_zero_key_retention() -> None:
    made = World().service
    assert isinstance(made, PaymentService)
    assert isinstance(made, FillsItself)
    assert (made.name, made.dormant) == ("autumn", None)
    can = made.capabilities
    assert (can.key_retention_ms, can.lookup_lag_ms, can.applied_within_ms) == (0, NEVER_MS, NEVER_MS)


@cases("missing", ["secret_key", "topup_plan", "topup_feature"])
def test_autumn_payments_without_setting_are_dormant_and_not_called(missing: str) -> None:
    stub = Stub(said(200, {}))
    made = service(stub, settings={**SETTINGS, missing: ""})
    assert made.dormant == f"DRAWDOWN_AUTUMN_{missing.upper()} is not set"
    assert isinstance(done(made.charge(CHARGE)), NotSent)
    assert isinstance(done(made.look_up(CHARGE)), InDoubt)
    assert isinstance(done(made.card_link("cus_1", BACK)), NoLink)
    assert stub.sent == []


def test_charge_previews_once_and_attaches_once() -> None:
    world = World()
    assert world.charge() == Payment("in_1", 2000, "usd")
    assert dict(world.autumn.calls) == {"customers.get": 1, "billing.preview_attach": 1, "billing.attach": 1}
    (taken,) = world.books.taken
    assert (taken.charge_id, taken.customer_id, taken.amount, taken.currency) == ("topup:acme:7", "cus_1", 2000, "usd")


def test_charge_request_has_all_fields_and_idempotency_key() -> None:
    def answered(call: Call) -> HttpResult:
        if call.url.endswith("preview_attach"):
            return said(200, {"customer_id": "cus_1", "total": 2000, "currency": "USD"})
        return answer_of() if call.url.endswith("billing.attach") else said(200, {"id": "cus_1", "balances": {}})

    stub = Stub(answered)
    assert isinstance(done(service(stub).charge(CHARGE)), Payment)
    attach = stub.sent[-1]
    assert attach.url == "https://api.useautumn.com/v1/billing.attach"
    assert json.loads(attach.body) == {
        "customer_id": "cus_1",
        "plan_id": "topup",
        "feature_quantities": [{"feature_id": "cents", "quantity": 2000}],
        "redirect_mode": "never",
        "metadata": {METADATA: "topup:acme:7"},
    }
    assert attach.headers["idempotency-key"].startswith("drawdown-")
    assert "idempotency-key" not in stub.sent[0].headers, "reads claim no key"
    assert SECRET_KEY not in repr(attach)
    assert {call.most_bytes for call in stub.sent[:-1]} == {MAX_READ_BYTES}, "a customer may have many invoices"
    assert attach.most_bytes == PUSH_ANSWER_BYTES


def test_decline_reason_from_autumn_is_truncated() -> None:
    said_at_length = answer_of(invoice="left out", required_action={"code": "payment_failed", "reason": "x" * 1_000})
    result = judged(said_at_length)
    assert isinstance(result, Declined)
    assert len(result.reason) == MAX_CHARS


# What stands against it before anything is taken.


@cases(("each", "currency"), [(2, "usd"), (1, "eur")])
def test_charge_with_preview_of_another_price_is_not_attached(each: int, currency: str) -> None:
    world = World()
    world.books.each, world.books.currency = each, currency
    result = world.charge()
    assert isinstance(result, NotSent)
    assert result.retry_at_ms is None
    assert "to one minor unit of usd" in result.reason
    assert world.books.attaches == 0


def test_charge_of_customer_autumn_tops_up_itself_is_not_sent() -> None:
    world = World()
    world.books.fills_itself["cus_1"] = True
    result = world.charge()
    assert isinstance(result, NotSent)
    assert (result.retry_at_ms, world.books.attaches) == (None, 0)
    assert "itself (credits)" in result.reason
    world.books.fills_itself["cus_1"] = False
    assert isinstance(world.charge(), Payment), "a rule that is switched off fills nothing"


def test_automatic_topup_lookup_without_answer_is_in_doubt() -> None:
    assert isinstance(done(service(Stub(NoAnswer("timed out"))).fills_itself("cus_1")), InDoubt)
    assert isinstance(done(service(Stub(no(404, "customer_not_found"))).fills_itself("cus_1")), NotSent)
    assert done(World().service.fills_itself("cus_1")) is None


SETTINGS_UNREAD: list[Any] = [
    {},
    {"id": "cus_2"},
    {"id": "cus_1", "billing_controls": []},
    {"id": "cus_1", "billing_controls": "off"},
    {"id": "cus_1", "billing_controls": {"auto_topups": {"enabled": True}}},
    {"id": "cus_1", "billing_controls": {"auto_topups": 5}},
    {"id": "cus_1", "billing_controls": {"auto_topups": [5]}},
    {"id": "cus_1", "billing_controls": {"auto_topups": [{"feature_id": "credits", "enabled": "yes"}]}},
    {"id": "cus_1", "billing_controls": {"auto_topups": [{"feature_id": "credits"}]}},
]


@cases("body", SETTINGS_UNREAD)
def test_unreadable_automatic_topup_setting_is_in_doubt(body: Any) -> None:
    assert isinstance(done(service(Stub(said(200, body))).fills_itself("cus_1")), InDoubt)


@cases("controls", [None, {}, {"auto_topups": None}, {"auto_topups": []}, {"auto_topups": [{"enabled": False}]}])
def test_customer_without_automatic_topup_may_be_charged(controls: Any) -> None:
    assert done(service(Stub(said(200, {"id": "cus_1", "billing_controls": controls}))).fills_itself("cus_1")) is None


@cases(("customer", "retry"), [("nobody", False), ("not an id", False), ("cus_1", True)])
def test_charge_without_readable_customer_is_not_attached(customer: str, retry: bool) -> None:
    world = World({"reads_fail": 1.0} if retry else None)
    result = world.charge(customer_id=customer)
    assert isinstance(result, NotSent)
    assert (result.retry_at_ms == NOW_MS + UNREAD_MS) is retry
    assert world.books.attaches == 0


# What an answer proves.

ANSWERS: dict[str, tuple[HttpResult, type, str]] = {
    "paid": (answer_of(), Payment, ""),
    "another amount": (answer_of(invoice=invoice(total=2001)), OtherContent, "2001"),
    "another currency": (answer_of(invoice=invoice(currency="eur")), OtherContent, "eur"),
    "an invoice that is open": (answer_of(invoice=invoice(status="open")), InDoubt, "Void it at Stripe"),
    "a draft": (answer_of(invoice=invoice(status="draft")), InDoubt, "draft"),
    "an invoice without a name": (answer_of(invoice=invoice(stripe_id=None)), InDoubt, "paid"),
    "declined, and void": (
        answer_of(invoice=invoice(status="void"), required_action={"code": "payment_failed", "reason": "no funds"}),
        Declined,
        "no funds",
    ),
    "declined": (answer_of(invoice="left out", required_action={"code": "payment_failed"}), Declined, "declined"),
    "declined, and open": (
        answer_of(invoice=invoice(status="open"), required_action={"code": "payment_failed", "reason": "no funds"}),
        InDoubt,
        "open",
    ),
    "no card": (
        answer_of(invoice="left out", required_action={"code": "payment_method_required"}),
        NotSent,
        "not have a card",
    ),
    "the bank asks": (answer_of(invoice="left out", required_action={"code": "3ds_required"}), NeedsCustomer, "bank"),
    "it goes on": (
        answer_of(invoice="left out", required_action={"code": "payment_processing"}),
        InDoubt,
        "processing",
    ),
    "a page": (answer_of(invoice="left out", payment_url="https://checkout.test"), InDoubt, "page"),
    "nothing at all": (answer_of(invoice="left out"), InDoubt, "no action"),
    "of somebody else": (answer_of(customer_id="cus_2"), InDoubt, "attach"),
    "no answer": (NoAnswer("cut"), InDoubt, "cut"),
    "never left": (NeverLeft("refused"), NotSent, "refused"),
    "too many calls": (said(429, "later", retry_after="7"), NotSent, "429"),
    "a key that is refused": (no(401, "invalid_secret_key"), NotSent, "key"),
    "a key that is taken": (no(409, "duplicate_idempotency_key"), InDoubt, "duplicate"),
    "another attach is under way": (no(409, "lock_already_exists"), InDoubt, "409"),
    "a 400, which may come after the card": (no(400, "invalid_request", "card_declined"), InDoubt, "card_declined"),
    "a 500": (no(500, "internal_error"), InDoubt, "500"),
    "queued": (said(202, {"customer_id": "cus_1"}), InDoubt, "202"),
    "nonsense": (said(200, "<html>"), InDoubt, "attach"),
}


@cases("name", ANSWERS)
def test_attach_answers_map_to_result_they_prove(name: str) -> None:
    answer, kind, text = ANSWERS[name]
    result = judged(answer)
    assert isinstance(result, kind), result
    assert text in getattr(result, "reason", ""), result


def test_charge_429_is_retried_after_requested_wait() -> None:
    assert judged(said(429, "later", retry_after="7")) == NotSent("HTTP 429: too many calls", NOW_MS + 7_000)


# A lookup names what a person has to look at, and proves nothing.


@cases("fault", ["answer_lost", "error_500_after", "unnoted", "request_lost", "error_500_before"])
def test_charge_in_doubt_stays_in_doubt_with_invoices_listed(fault: str) -> None:
    world = World({fault: 1.0})
    assert isinstance(world.charge(), InDoubt)
    world.clock.at_ms += NEVER_MS // 2
    found = world.look_up()
    assert isinstance(found, InDoubt)
    assert f"{METADATA} = topup:acme:7" in found.reason
    listed = fault in ("answer_lost", "error_500_after")
    assert ("in_1 paid 2000 usd" in found.reason) is listed
    assert ("none" in found.reason) is not listed, "and what was taken may be in no list"
    assert len(world.books.taken) == (1 if listed or fault == "unnoted" else 0)


def test_payment_lookup_lists_first_invoices_since_charge() -> None:
    world = World()
    for at in range(MAX_NAMED + 2):
        world.charge(charge_id=f"topup:acme:{at}")
    old = {**world.books.invoices[0], "stripe_id": "in_old", "created_at": NOW_MS - 10**9}
    world.books.invoices.append(old)
    found = world.look_up()
    assert isinstance(found, InDoubt)
    assert found.reason.count(" paid ") == MAX_NAMED
    assert "and 2 more" in found.reason
    assert "in_old" not in found.reason


def test_payment_lookup_lists_invoices_with_real_ids_in_full() -> None:
    listed = [invoice(stripe_id=f"in_{at}{'N' * 23}", created_at=NOW_MS) for at in range(MAX_NAMED + 2)]
    found = done(service(Stub(said(200, {"id": "cus_1", "invoices": listed}))).look_up(CHARGE))
    assert isinstance(found, InDoubt)
    assert all(f"in_{at}{'N' * 23} paid 2000 usd" in found.reason for at in range(MAX_NAMED))
    assert found.reason.endswith(" and 2 more")


def test_payment_lookup_invoices_of_any_text_are_bounded() -> None:
    listed = [invoice(stripe_id="in_" + "\n" * 1_000, created_at=None)] * 50
    found = done(service(Stub(said(200, {"id": "cus_1", "invoices": listed}))).look_up(CHARGE))
    assert isinstance(found, InDoubt)
    assert len(found.reason) < 4 * MAX_CHARS and found.reason.isprintable() and found.reason.endswith(" and 45 more")


@cases(
    "body",
    [{}, {"id": "cus_1"}, {"id": "cus_1", "invoices": None}, {"id": "cus_1", "invoices": {}},
     {"id": "cus_1", "invoices": [5]}, {"id": None, "invoices": []}],
)  # fmt: skip
def test_payment_lookup_without_invoices_says_they_are_unreadable(body: Any) -> None:
    found = done(service(Stub(said(200, body))).look_up(CHARGE))
    assert isinstance(found, InDoubt)
    assert "cannot be read" in found.reason and "none" not in found.reason


def test_payment_lookup_that_cannot_read_is_in_doubt_with_reason() -> None:
    found = World({"reads_fail": 1.0}).look_up()
    assert isinstance(found, InDoubt)
    assert "customers.get" in found.reason


# Whatever strikes, nobody is charged twice.


@cases("seed", range(8))
def test_charges_under_all_attach_faults_are_not_doubled(seed: int) -> None:
    """A caller as the worker is one: what is proven not to have been sent is charged again; what is in doubt never."""
    rates = dict.fromkeys(ATTACH_FAULTS, 0.05) | {"reads_fail": 0.1}
    world = World(rates, seed)
    results: dict[str, ChargeResult] = {}
    for number in range(150):
        name = f"topup:acme:{number}"
        world.books.cards["cus_1"] = world.autumn.faults.rng.choice(
            ["good", "good", "declined", "none", "authenticate"]
        )
        for _ in range(10):
            results[name] = result = world.charge(charge_id=name)
            world.clock.at_ms += 60_000
            if not isinstance(result, NotSent) or result.retry_at_ms is None:
                break
    taken = {one.charge_id for one in world.books.taken}
    assert world.books.doubles() == []
    paid = {name for name, result in results.items() if isinstance(result, Payment)}
    doubtful = {name for name, result in results.items() if isinstance(result, InDoubt)}
    assert paid <= taken <= paid | doubtful, "what was taken is paid, or with a person"
    assert min(len(paid), len(doubtful), len(taken & doubtful)) > 0
    assert {kind for kind in ATTACH_FAULTS if world.autumn.faults.counts[kind]} == set(ATTACH_FAULTS)


def test_charge_repeated_with_key_store_failing_open_is_doubled() -> None:
    """Why no answer of this service ever asks for that: the header's key is no promise (recorded)."""
    world = World({"answer_lost": 1.0})
    world.charge()
    world.charge()
    assert world.books.doubles() == [], "while the store is up, the key holds"
    world.autumn.key_store = "refusing"
    world.charge()
    assert world.books.doubles() == ["topup:acme:7"]


# Pages.


def test_card_and_portal_links_for_another_customer_are_refused() -> None:
    made = World().service
    card, portal = done(made.card_link("cus_1", BACK)), done(made.portal_link("cus_1", BACK))
    assert card == Link("https://pages.autumn.test/billing.setup_payment/cus_1", None)
    assert portal == Link("https://pages.autumn.test/billing.open_customer_portal/cus_1", None)
    for link in (done(made.card_link("nobody", BACK)), done(made.card_link("cus_1", "javascript:x"))):
        assert isinstance(link, NoLink)
    other = service(Stub(said(200, {"customer_id": "cus_2", "url": "https://pages.test"})))
    assert isinstance(done(other.card_link("cus_1", BACK)), NoLink)
    long = service(Stub(said(200, {"customer_id": "cus_1", "url": f"https://pages.test/{'x' * 6_000}"})))
    assert isinstance(done(long.portal_link("cus_1", BACK)), NoLink)
