"""The part of the Stripe emulator that takes money: customers' cards, PaymentIntents, setup pages and the portal.

Guarantee: what was taken is kept apart from what is answered and listed. `taken` is the books: a test that wants to
know who was charged twice asks there, whatever faults struck.

Fault kinds, drawn by the plan's rates or scripted (`script`, one for each call in turn, None for none). Of the call
that charges: request_lost (cut before anything was done), answer_lost (cut after charging), error_500_before (nothing
done, nothing saved), cached_500 (nothing done, a 500 saved), error_500_after (charged, a 500 saved), throttled,
throttled_nonsense, lock_timeout, slow (no answer, and worked on up to MAX_SLOW_MS later; the same key meets a 409 until
then), garbage (charged or not, and an answer that is none), late_listing (cut after charging, and seen in lists up to
MAX_LAG_MS later), other_amount (Stripe takes a unit more). Of the list: reads_fail, list_garbage, list_twice (each item
twice), list_other_amount, list_foreign (somebody else's payment in it). Of both: connection_refused.
"""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from drawdown.providers.http import Answer, Call
from tests.emulators.stripe_rules import broken, required
from tests.emulators.stripe_shapes import Json, Refusal, page, reply

INTENTS = "/v1/payment_intents"
MAX_LAG_MS = 9 * 60_000
MAX_SLOW_MS = 5 * 60_000
LEAST = {"usd": 50, "eur": 50, "gbp": 30}
CHARGE_FAULTS = (
    "connection_refused",
    "request_lost",
    "answer_lost",
    "error_500_before",
    "cached_500",
    "error_500_after",
    "throttled",
    "throttled_nonsense",
    "lock_timeout",
    "slow",
    "garbage",
    "late_listing",
    "other_amount",
)
LIST_FAULTS = (
    "connection_refused",
    "reads_fail",
    "list_garbage",
    "list_twice",
    "list_other_amount",
    "list_foreign",
)
REFUSALS: dict[str, tuple[str, str | None, str | None]] = {
    "declined": ("card_declined", "generic_decline", "try_again_later"),
    "insufficient": ("card_declined", "insufficient_funds", "try_again_later"),
    "honor": ("card_declined", "do_not_honor", "do_not_try_again"),
    "stolen": ("card_declined", "stolen_card", "do_not_try_again"),
    "lost": ("card_declined", "lost_card", None),
    "expired": ("expired_card", None, "confirm_card_data"),
    "authenticate": ("authentication_required", "authentication_required", None),
}
"""How a card is refused: code, decline_code, advice_code. Others: good, processing, action."""
_KNOWN = re.compile(
    r"amount|currency|customer|payment_method|off_session|confirm|description|return_url|metadata\[[^\]]{1,40}\]"
    r"|automatic_payment_methods\[(enabled|allow_redirects)\]"
)


@dataclass(frozen=True)
class Taken:
    """Money that changed hands."""

    charge_id: str
    customer_id: str
    amount: int
    currency: str
    payment_id: str


@dataclass
class Card:
    """A payment method, and how its bank behaves."""

    id: str
    customer_id: str
    manner: str


@dataclass
class Intent:
    """One PaymentIntent."""

    id: str
    customer_id: str
    amount: int
    currency: str
    metadata: dict[str, str]
    card: str
    created_s: int
    visible_ms: int
    description: str = ""
    status: str = "requires_confirmation"
    error: Json | None = None
    settles_ms: int = 0
    reason: str | None = None

    def shape(self) -> Json:
        return {
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_received": self.amount if self.status == "succeeded" else 0,
            "cancellation_reason": self.reason,
            "client_secret": f"{self.id}_secret_emulated",
            "created": self.created_s,
            "currency": self.currency,
            "customer": self.customer_id,
            "description": self.description or None,
            "last_payment_error": self.error,
            "livemode": False,
            "metadata": dict(self.metadata),
            "payment_method": self.card if self.status != "requires_payment_method" else None,
            "status": self.status,
        }


@dataclass
class Page:
    """A Checkout page in setup mode."""

    id: str
    customer_id: str
    metadata: dict[str, str]
    card: str | None = None

    def shape(self, *, whole: bool = False) -> Json:
        setup: Json = {"id": f"seti_{self.id}", "object": "setup_intent", "payment_method": self.card}
        setup["status"] = "succeeded" if self.card else "requires_payment_method"
        return {
            "id": self.id,
            "object": "checkout.session",
            "customer": self.customer_id,
            "expires_at": 1_900_000_000,
            "livemode": False,
            "metadata": dict(self.metadata),
            "mode": "setup",
            "setup_intent": setup if whole else setup["id"],
            "status": "complete" if self.card else "open",
            "url": None if self.card else f"https://checkout.stripe.test/c/pay/{self.id}",
        }


@dataclass
class Late:
    """A call that is under way: worked on at `at_ms`, its answer heard by nobody."""

    call: Call
    at_ms: int


@dataclass
class Payments:
    """What one account has taken. `lag_ms`: how much later than made every intent is listed."""

    rng: random.Random
    lag_ms: int = 0
    settles_after_ms: int = 3 * 86_400_000
    script: deque[str | None] = field(default_factory=deque)
    struck: Counter[str] = field(default_factory=Counter)
    taken: list[Taken] = field(default_factory=list)
    cards: dict[str, Card] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    intents: list[Intent] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    under_way: dict[str, Late] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = iter(range(1, 1_000_000_000))

    # What a test sets up, and asks.

    def put_in(self, customer_id: str, manner: str = "good", *, default: bool = True) -> str:
        """A card for a customer; the customer's default, as the portal makes it."""
        card = Card(f"pm_{next(self._numbers)}", customer_id, manner)
        self.cards[card.id] = card
        if default:
            self.defaults[customer_id] = card.id
        return card.id

    def complete(self, url: str, manner: str = "good") -> None:
        """The customer puts in a card on a page. Stripe keeps it, and makes it no default."""
        found = next(one for one in self.pages if url.endswith(f"/{one.id}"))
        found.card = self.put_in(found.customer_id, manner, default=False)

    def charged(self, charge_id: str) -> int:
        """Minor units taken under an id."""
        return sum(one.amount for one in self.taken if one.charge_id == charge_id)

    def doubles(self) -> list[str]:
        """Ids under which money was taken more than once."""
        counts = Counter(one.charge_id for one in self.taken)
        return sorted(charge_id for charge_id, count in counts.items() if count > 1)

    # What the service does.

    def drawn(self, draw: Callable[..., str | None], kinds: tuple[str, ...]) -> str | None:
        """The fault of this call: of the script while it lasts, else drawn."""
        fault = self.script.popleft() if self.script else draw(*kinds)
        assert fault is None or fault in kinds, f"{fault} cannot strike here"
        if fault is not None:
            self.struck[fault] += 1
        return fault

    def delay(self, call: Call, key: str, now_ms: int) -> None:
        """A call that is worked on later."""
        self.under_way.setdefault(key, Late(call, now_ms + self.rng.randint(1_000, MAX_SLOW_MS)))

    def due(self, now_ms: int) -> Iterator[Late]:
        """Calls whose time has come, each once."""
        for key, late in sorted(self.under_way.items(), key=lambda item: item[1].at_ms):
            if late.at_ms <= now_ms:
                del self.under_way[key]
                yield late

    def create(self, form: Mapping[str, str], fault: str | None, now_ms: int) -> Answer:
        """POST /v1/payment_intents, confirmed at once."""
        card = self._checked(form)
        amount = int(form["amount"]) + (fault == "other_amount")
        more = self.rng.randint(1, MAX_LAG_MS) if fault == "late_listing" else 0
        intent = Intent(
            id=f"pi_{next(self._numbers)}",
            customer_id=form["customer"],
            amount=amount,
            currency=form["currency"],
            metadata={name[9:-1]: text for name, text in form.items() if name.startswith("metadata[")},
            card=card.id,
            created_s=now_ms // 1000,
            visible_ms=now_ms + self.lag_ms + more,
            description=form.get("description", ""),
        )
        self.intents.append(intent)
        return self._confirmed(intent, card.manner, now_ms)

    def _checked(self, form: Mapping[str, str]) -> Card:
        for name in form:
            if not _KNOWN.fullmatch(name):
                raise Refusal(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
        amount, currency = required(form, "amount"), required(form, "currency")
        if not amount.isdigit() or int(amount) > 99_999_999:
            raise Refusal(400, f"Invalid integer: {amount}", code="parameter_invalid_integer", param="amount")
        if int(amount) < LEAST.get(currency, 1):
            raise Refusal(400, "Amount must convert to at least 50 cents.", code="amount_too_small", param="amount")
        if form.get("off_session") != "true" or form.get("confirm") != "true":
            raise Refusal(400, "The emulator knows intents that are confirmed at once and off session alone.")
        if form.get("automatic_payment_methods[allow_redirects]") != "never" and "return_url" not in form:
            raise Refusal(400, "A `return_url` must be specified because this Payment Intent may redirect.")
        card = self.cards.get(required(form, "payment_method"))
        if card is None:
            text = f"No such PaymentMethod: '{form['payment_method']}'"
            raise Refusal(400, text, code="resource_missing", param="payment_method")
        if card.customer_id != required(form, "customer"):
            raise Refusal(400, "The payment method belongs to another customer.", code="resource_missing")
        return card

    def _confirmed(self, intent: Intent, manner: str, now_ms: int) -> Answer:
        if manner in REFUSALS:
            code, decline, advice = REFUSALS[manner]
            parts = {"code": code, "decline_code": decline, "advice_code": advice, "message": "Your card was declined."}
            error: Json = {"type": "card_error", **{name: text for name, text in parts.items() if text is not None}}
            intent.status, intent.error = "requires_payment_method", error
            return reply({"error": {**error, "payment_intent": intent.shape()}}, 402)
        if manner == "action":
            intent.status = "requires_action"
        elif manner == "processing":
            intent.status, intent.settles_ms = "processing", now_ms + self.settles_after_ms
        else:
            self._take(intent)
        return reply(intent.shape())

    def _take(self, intent: Intent) -> None:
        intent.status = "succeeded"
        charge_id = intent.metadata.get("drawdown_charge", "")
        self.taken.append(Taken(charge_id, intent.customer_id, intent.amount, intent.currency, intent.id))

    def cancel(self, payment_id: str, reason: str | None = "requested_by_customer") -> None:
        """What a person does in the dashboard."""
        found = next(one for one in self.intents if one.id == payment_id)
        assert found.status != "succeeded", "Stripe cancels nothing that was paid"
        found.status, found.reason = "canceled", reason

    def settle(self, now_ms: int) -> None:
        """What a bank was asked days ago."""
        for intent in self.intents:
            if intent.status == "processing" and intent.settles_ms <= now_ms:
                self._take(intent)

    def listed(self, query: Mapping[str, str], fault: str | None, now_ms: int) -> Answer:
        """GET /v1/payment_intents, the newest first."""
        self.settle(now_ms)
        since_s, who = int(query.get("created[gte]", "0")), query.get("customer")
        found = [
            one.shape()
            for one in reversed(self.intents)
            if one.customer_id == (who or one.customer_id) and one.created_s >= since_s and one.visible_ms <= now_ms
        ]
        body = page(found, INTENTS, query)
        items = body["data"]
        assert isinstance(items, list)
        if fault == "list_twice":
            body["data"] = [item for item in items for _ in range(2)]
        if fault == "list_other_amount":
            body["data"] = [{**item, "amount": item["amount"] + 1} for item in items]
        if fault == "list_foreign":
            body["data"] = [{"id": "pi_999", "object": "payment_intent", "customer": "cus_of_another"}, *items]
        return garbled(self.rng, reply(body)) if fault == "list_garbage" else reply(body)

    def new_page(self, form: Mapping[str, str]) -> Answer:
        """POST /v1/checkout/sessions in setup mode."""
        if form.get("mode") != "setup" or not form.get("payment_method_types[0]"):
            raise Refusal(400, "You must provide a currency, or payment_method_types.", param="currency")
        required(form, "success_url")
        metadata = {name[9:-1]: text for name, text in form.items() if name.startswith("metadata[")}
        self.pages.append(Page(f"cs_{next(self._numbers)}", form["customer"], metadata))
        return reply(self.pages[-1].shape())

    def pages_of(self, query: Mapping[str, str]) -> Answer:
        """GET /v1/checkout/sessions."""
        whole = query.get("expand[]") == "data.setup_intent"
        shapes = [one.shape(whole=whole) for one in reversed(self.pages) if one.customer_id == query.get("customer")]
        wanted = [one for one in shapes if query.get("status") in (None, one["status"])]
        return reply(page(wanted, "/v1/checkout/sessions", query))

    def portal(self, form: Mapping[str, str]) -> Answer:
        """POST /v1/billing_portal/sessions."""
        name = f"bps_{next(self._numbers)}"
        return reply(
            {
                "id": name,
                "object": "billing_portal.session",
                "customer": required(form, "customer"),
                "livemode": False,
                "return_url": form.get("return_url"),
                "url": f"https://billing.stripe.test/p/session/{name}",
            }
        )


def garbled(rng: random.Random, answer: Answer) -> Answer:
    """An answer that is none: of something in between, cut short, of the wrong types, or about somebody else."""
    json = answer.headers
    return rng.choice(
        [
            Answer(200, {"content-type": "text/html"}, b"<html>It works!</html>"),
            Answer(200, json, answer.body[: len(answer.body) // 2]),
            Answer(200, json, b'{"object": "payment_intent", "id": "pi_1", "status": "succeeded", "metadata": {}}'),
            Answer(200, json, b'{"object": "list", "data": {}, "has_more": "no"}'),
            Answer(200, json, b'{"object": "list", "data": [{"id": 7, "status": []}], "has_more": false}'),
            Answer(200, json, b"[" * 50_000),
            Answer(204, {}, b""),
            Answer(302, {"location": "https://example.com/"}, b""),
            Answer(400, {"content-type": "text/html"}, b"<h1>Bad request</h1>"),
            Answer(402, {"content-type": "text/html"}, b"<h1>Pay here</h1>"),
            broken().answer(),
        ]
    )
