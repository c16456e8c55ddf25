"""Stripe as a payment service.

Each charge is one PaymentIntent, confirmed immediately and without the customer.

Guarantee: the charge's id is the Idempotency-Key, and is in the intent's metadata. So several calls for a charge within
24 hours charge once, and a lookup finds the charge by its id. "Paid" needs an intent with our id, amount, currency and
customer that states that it received the whole amount. "Declined" needs Stripe's own statement that the card was
refused, or that the intent was cancelled. Every other call that may have charged is in doubt. The card is the
customer's default, or else the card that they entered on a page of ours. This module does not retry, and was not tried
against Stripe itself. A restricted key needs Payment Intents, Checkout Sessions and Customer portal: write, and
Customers: read.

A lookup lists intents, because Stripe's search by metadata is a minute late, and an hour late in an outage. The search
is not offered to accounts in India. Stripe advises against it after a write (docs.stripe.com/search). A list does not
have these limits. So Drawdown lists the customer's intents from an hour before the decision to charge, and picks those
with the charge's id. One lag remains: Drawdown may have given up a call while Stripe still works on it.

Facts (docs.stripe.com: api/payment_intents, declines/codes, declines/card, error-low-level, idempotent_requests,
api/customers, payments/checkout/save-and-reuse, api/customer_portal/sessions):

- Under an Idempotency-Key, Stripe repeats its first response for at least 24 hours, a 402 or a 500 too. After a stored
  500, only a lookup returns the outcome. Other parameters under the key are an `idempotency_error`. If the customer
  changes the card between two attempts, `charge` looks up the first. While the first call is in flight, a second is a
  409 `idempotency_key_in_use`.
- With `off_session`, if the bank requires the customer, Stripe refuses the card with 402 `authentication_required`. A
  refused intent stays in `requires_payment_method`. Only Drawdown could confirm it again, and never does.
- Since 2023 an intent takes every kind of payment that the dashboard allows. Stripe refuses it without a `return_url`
  unless redirects are excluded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from drawdown.providers.http import Answer, Call, Http, HttpResult, NoAnswer
from drawdown.providers.http import NotSent as NeverLeft
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    Link,
    NeedsCustomer,
    NoLink,
    NotFound,
    NotSent,
    OtherContent,
    Payment,
    PaymentCapabilities,
)
from drawdown.providers.protocol import HOUR_MS, ReadFailed, Setup
from drawdown.providers.stripe.settings import StripeSettings, read_settings
from drawdown.providers.stripe.wire import (
    KEY_WAIT_MS,
    MAX_RETRY_MS,
    MAX_TEXT,
    clean,
    described,
    error_of,
    get,
    header_key,
    json_object,
    path_of,
    post,
    read_object,
    wait_ms,
)
from drawdown.schema.clock import Clock
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS

NAME: Final = "stripe"
DORMANT: Final = "DRAWDOWN_STRIPE_SECRET_KEY is not set"
PAGE: Final = 100
MAX_PAGES: Final = 20
"""Pages of one customer's payments at Stripe that a lookup reads.

If the list has more pages, and these pages lack the charge, the charge stays in doubt.
"""
CLOCKS_MS: Final = HOUR_MS
"""Most milliseconds by which our clock may be ahead of Stripe's.

A lookup begins earlier by this time, so that it finds every intent.
"""
LOOKUP_LAG_MS: Final = 10 * MINUTE_MS
"""Milliseconds after a call from which a lookup can prove that Stripe did not charge.

Drawdown stops waiting for a call after 30 s, and Stripe's own clients after 80 s.
"""


MAX_AMOUNT: Final = 99_999_999
"""Largest amount of one charge, in minor units.

Stripe allows eight digits for almost every currency.
"""


LEAST: Final = {
    **dict.fromkeys(("usd", "eur", "cad", "aud", "nzd", "sgd", "chf", "brl", "inr", "jpy"), 50),
    **{"gbp": 30, "dkk": 250, "nok": 300, "sek": 300, "hkd": 400, "pln": 200, "czk": 1500, "mxn": 1000, "aed": 200},
}
"""Stripe's smallest amounts, in minor units.

Stripe compares them in its payout currency, so it may refuse an amount just above the limit.
"""


class StripePayments:
    """A payment service that charges by v1 PaymentIntents.

    The service uses the settings of the billing provider of the same name.
    """

    capabilities = PaymentCapabilities(
        key_retention_ms=24 * HOUR_MS,
        lookup_lag_ms=LOOKUP_LAG_MS,
        applied_within_ms=DAY_MS,
        least=LEAST,
        most=MAX_AMOUNT,
    )

    def __init__(self, settings: StripeSettings, http: Http, clock: Clock) -> None:
        self.name = NAME
        self.dormant = None if settings.secret_key else DORMANT
        self._settings = settings
        self._http = http
        self._clock = clock

    async def charge(self, request: Charge) -> ChargeResult:
        if self.dormant:
            return NotSent(self.dormant, self._clock.now_ms() + MAX_RETRY_MS)
        wrong = unfit(request)
        if wrong:
            return NotSent(wrong, None)
        card = await card_of(self._settings, self._http, request.customer_id, self._clock.now_ms())
        if isinstance(card, NotSent):
            return card
        answer = await self._http.send(creation(self._settings, request, card))
        earlier = await self.look_up(request) if sent_before(answer) else NotFound()
        if not isinstance(earlier, NotFound):
            return earlier
        return created(answer, request, self._clock.now_ms())

    async def look_up(self, request: Charge) -> ChargeResult:
        if self.dormant:
            return InDoubt(self.dormant)
        wrong = unfit(request)
        if wrong:
            return InDoubt(f"the charge cannot be looked up: {wrong}")
        found = await self._intents_of(request)
        if isinstance(found, InDoubt):
            return found
        if len(found) > 1:
            names = ", ".join(sorted(clean(name, 40) for name in found))
            return OtherContent(f"{len(found)} payments have this charge's id: {clean(names)}")
        return judge_intent(next(iter(found.values())), request) if found else NotFound()

    async def _intents_of(self, request: Charge) -> Mapping[str, Mapping[str, object]] | InDoubt:
        """Return the intents with the charge's id, by their own id.

        Stripe's list may name an intent twice.

        InDoubt: a page cannot be read, or the first MAX_PAGES pages do not have the charge and more pages follow.
        """
        since_s = max(request.begun_ms - CLOCKS_MS, 0) // SECOND_MS
        params = {"customer": request.customer_id, "created[gte]": str(since_s), "limit": str(PAGE)}
        found: dict[str, Mapping[str, object]] = {}
        for _ in range(MAX_PAGES):
            page = await self._page(params, request)
            if isinstance(page, InDoubt):
                return page
            items, goes_on = page
            found |= {str(item["id"]): item for item in items if is_of(item, request)}
            if not goes_on:
                return found
            params["starting_after"] = str(items[-1]["id"])
        return found or InDoubt(f"the customer has more than {MAX_PAGES * PAGE} payments since the decision to charge")

    async def _page(
        self, params: Mapping[str, str], request: Charge
    ) -> tuple[Sequence[Mapping[str, object]], bool] | InDoubt:
        """Read one page. Return its items, and True if another page follows.

        The page can prove that the charge is absent, so it must be a whole list of this customer; otherwise InDoubt.
        """
        page = read_object(await self._http.send(get(self._settings, PAYMENT_INTENTS, params)))
        if isinstance(page, ReadFailed):
            return InDoubt(f"the payments could not be read: {page.reason}")
        data, goes_on = page.get("data"), page.get("has_more")
        if page.get("object") != "list" or not isinstance(data, list) or not isinstance(goes_on, bool):
            return InDoubt("HTTP 200 without a list of payments")
        if goes_on and not data:
            return InDoubt("the list continues, but Stripe did not send the next position")
        for item in data:
            name = item.get("id") if isinstance(item, dict) else None
            if not isinstance(name, str) or not INTENT_ID.fullmatch(name):
                return InDoubt("HTTP 200 without a list of payments")
            if customer_of(item) != request.customer_id and not is_of(item, request):
                return InDoubt("Stripe returned the payments of another customer")
        return data, goes_on

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        if self.dormant:
            return NoLink(self.dormant)
        return await card_page(self._settings, self._http, customer_id, return_url)

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        if self.dormant:
            return NoLink(self.dormant)
        return await portal(self._settings, self._http, customer_id, return_url)


def build(setup: Setup) -> StripePayments:
    """Build the payment service from the settings of the billing provider.

    The key is `payments_key` if it is set, or else `secret_key`.

    Errors: UsageError.
    """
    settings = read_settings(setup.settings)
    key = settings.payments_key or settings.secret_key
    return StripePayments(replace(settings, secret_key=key), setup.http, setup.clock)


PAYMENT_INTENTS: Final = "/v1/payment_intents"
METADATA: Final = "drawdown_charge"
MAX_CHARGE_ID_CHARS: Final = 1_000
"""Most characters of a charge's id at Stripe."""
MAX_CUSTOMER_CHARS: Final = 255
"""Most characters of a customer's id at Stripe, for a charge."""
MAX_CODE_CHARS: Final = 60
"""Most characters of Stripe's code for a refused card."""

NO_RETRY: Final = frozenset(
    {
        # Codes after which Stripe itself does not retry the same card (billing/revenue-recovery/smart-retries).
        *("incorrect_number", "lost_card", "pickup_card", "stolen_card", "highest_risk_level"),
        *("revocation_of_authorization", "revocation_of_all_authorizations", "transaction_not_allowed"),
        # Codes for which Stripe's table of decline codes advises to use another card, correct the card data, or contact
        # the bank.
        *("expired_card", "fraudulent", "restricted_card", "do_not_try_again", "invalid_account", "invalid_number"),
        *("new_account_information_available", "merchant_blacklist", "security_violation", "stop_payment_order"),
        *("card_not_supported", "currency_not_supported", "invalid_expiry_month", "invalid_expiry_year"),
        *("incorrect_cvc", "invalid_cvc", "testmode_decline", "pin_try_exceeded", "no_action_taken"),
    }
)
NO_RETRY_ADVICE: Final = frozenset({"do_not_try_again", "confirm_card_data"})
WANTS_CUSTOMER: Final = "authentication_required"

INTENT_ID: Final = re.compile(r"pi_[A-Za-z0-9]{1,200}")
_CURRENCY: Final = re.compile(r"[a-z]{3}")
_REFUSED: Final = ("requires_payment_method", "requires_confirmation")
"""States of an intent after its card was refused."""


def unfit(charge: Charge) -> str | None:
    """Return why a charge can never be sent to Stripe; None if it can."""
    if not 0 < len(charge.charge_id) <= MAX_CHARGE_ID_CHARS or not charge.charge_id.isprintable():
        return "its id is empty, too long, or has characters that cannot be printed"
    if not is_customer(charge.customer_id):
        return "the customer id is not an id of Stripe"
    if not _CURRENCY.fullmatch(charge.currency):
        return "its currency is not an ISO 4217 code in lower case"
    least = LEAST.get(charge.currency, 1)
    if type(charge.amount) is not int or not least <= charge.amount <= MAX_AMOUNT:
        return f"Stripe accepts {least} to {MAX_AMOUNT} minor units of {charge.currency}"
    return None


def is_customer(text: str) -> bool:
    """Return True if an id can be part of a path.

    Ids of an old account may have another form.
    """
    return 0 < len(text) <= MAX_CUSTOMER_CHARS and text.isprintable() and text.strip(". ") == text


def creation(settings: StripeSettings, charge: Charge, card: str) -> Call:
    """Return the call that takes money. The same charge and card make the same bytes."""
    form = {
        "amount": str(charge.amount),
        "currency": charge.currency,
        "customer": charge.customer_id,
        "payment_method": card,
        "off_session": "true",
        "confirm": "true",
        "automatic_payment_methods[enabled]": "true",
        "automatic_payment_methods[allow_redirects]": "never",
        "description": clean(charge.description),
        f"metadata[{METADATA}]": header_key(charge.charge_id),
    }
    return post(settings, PAYMENT_INTENTS, form, header_key(charge.charge_id))


def is_of(intent: Mapping[str, object], charge: Charge) -> bool:
    """Return True if an intent carries the charge's id."""
    metadata = intent.get("metadata")
    return isinstance(metadata, dict) and metadata.get(METADATA) == header_key(charge.charge_id)


def customer_of(found: Mapping[str, object]) -> str | None:
    """Return the customer of an intent. Stripe sends an id, or the whole customer."""
    customer = found.get("customer")
    who = customer.get("id") if isinstance(customer, dict) else customer
    return who if isinstance(who, str) else None


def sent_before(result: HttpResult) -> bool:
    """Return True if Stripe refused a call for an Idempotency-Key of an earlier call.

    The earlier call had different content, or another card.
    """
    error = error_of(result) if isinstance(result, Answer) and result.status == 400 else None
    return error is not None and error.type == "idempotency_error" and error.code != "idempotency_key_in_use"


def created(result: HttpResult, charge: Charge, now_ms: int) -> ChargeResult:
    """Return the outcome of the call that takes money."""
    if isinstance(result, NeverLeft):
        return NotSent(clean(f"not sent: {result.reason}"), now_ms + wait_ms({}, 1, now_ms))
    if isinstance(result, NoAnswer):
        return InDoubt(clean(f"no response: {result.reason}"))
    if result.status == 200:
        found = json_object(result.body) or {}
        if found.get("object") == "payment_intent" and is_of(found, charge):
            return judge_intent(found, charge)
        return InDoubt("HTTP 200, but for another charge")
    if result.status in (401, 403) and error_of(result) is not None:
        return NotSent(f"Stripe refuses the key: {described(result)}", now_ms + KEY_WAIT_MS)
    if result.status == 402:
        return _refused_card(result, charge)
    if 400 <= result.status < 500:
        return _refused(result, now_ms)
    return InDoubt(described(result))


def _refused(answer: Answer, now_ms: int) -> ChargeResult:
    """Return the outcome of a 4xx that is not about a card."""
    error = error_of(answer)
    if error is not None and error.code in ("lock_timeout", "idempotency_key_in_use"):
        # A lock can time out in the middle of the work, and a key in use means that our own call is in flight.
        return InDoubt(described(answer))
    if answer.status == 429 or (error is not None and error.code == "rate_limit"):
        # Stripe or a proxy sends any other 429 before Stripe acts on the request.
        return NotSent(described(answer), now_ms + wait_ms(answer.headers, 1, now_ms))
    if sent_before(answer):
        return OtherContent(
            f"this charge was sent before with different content, or on another card: {described(answer)}"
        )
    if error is None or answer.status == 409:
        return InDoubt(described(answer))
    if error.type != "invalid_request_error" or _error_part(answer, "payment_intent"):
        return InDoubt(described(answer))
    return NotSent(described(answer), None)


def _refused_card(answer: Answer, charge: Charge) -> ChargeResult:
    """Return the outcome of a 402, by the error and the present state of the intent."""
    error, intent = error_of(answer), _error_part(answer, "payment_intent")
    if error is None or error.type != "card_error":
        return InDoubt(described(answer))
    if intent:
        if not is_of(intent, charge):
            return InDoubt("HTTP 402, but for another charge")
        if _difference(intent, charge) or intent.get("status") not in _REFUSED:
            return judge_intent(intent, charge)
    return _declined((json_object(answer.body) or {}).get("error"))


def _error_part(answer: Answer, name: str) -> Mapping[str, object]:
    error = (json_object(answer.body) or {}).get("error")
    part = error.get(name) if isinstance(error, dict) else None
    return part if isinstance(part, dict) else {}


def judge_intent(intent: Mapping[str, object], charge: Charge) -> ChargeResult:
    """Return the outcome of a charge from an intent that carries its id."""
    payment_id, status = intent.get("id"), intent.get("status")
    if not isinstance(payment_id, str) or not INTENT_ID.fullmatch(payment_id):
        return InDoubt("Stripe returned a payment without an id")
    difference = _difference(intent, charge)
    if difference:
        return OtherContent(f"{payment_id} has this charge's id, but {difference}")
    match status:
        case "succeeded":
            return _succeeded(intent, payment_id, charge)
        case "canceled":
            why = _text(intent, "cancellation_reason")
            # If a person cancelled it as fraudulent or at the customer's request, do not charge again.
            retry = why not in ("fraudulent", "requested_by_customer")
            return Declined("canceled", f"{payment_id} was cancelled: {why}", retry)
        case "requires_action":
            return NeedsCustomer(f"{payment_id} waits for the customer")
        case "requires_payment_method" if isinstance(intent.get("last_payment_error"), dict):
            return _declined(intent.get("last_payment_error"))
        case "processing":
            return InDoubt(f"{payment_id} is in progress")
    # Our calls leave neither an unconfirmed nor an uncaptured intent. A person must cancel such an intent at Stripe.
    return InDoubt(f"{payment_id} is {_text(intent, 'status')}")


def _succeeded(intent: Mapping[str, object], payment_id: str, charge: Charge) -> ChargeResult:
    received = intent.get("amount_received")
    if type(received) is not int:
        return InDoubt(f"{payment_id} does not show the received amount")
    if received != charge.amount:
        return OtherContent(f"{payment_id} received another amount than {charge.amount} {charge.currency}")
    return Payment(payment_id, received, charge.currency)


def _difference(intent: Mapping[str, object], charge: Charge) -> str:
    """Return how an intent differs from this charge; empty if it does not."""
    if type(intent.get("amount")) is not int or intent["amount"] != charge.amount:
        return f"not the amount {charge.amount}"
    if intent.get("currency") != charge.currency:
        return f"not the currency {charge.currency}"
    return "" if customer_of(intent) == charge.customer_id else "not its customer"


def _declined(error: object) -> ChargeResult:
    """Return the outcome of a card error.

    `decline_code` is the bank's reason, and `code` is Stripe's.
    """
    parts = error if isinstance(error, dict) else {}
    code, decline, advice = (_text(parts, name) for name in ("code", "decline_code", "advice_code"))
    message = _text(parts, "message", MAX_TEXT)
    if WANTS_CUSTOMER in (code, decline):
        return NeedsCustomer(message or WANTS_CUSTOMER)
    retry = not {code, decline} & NO_RETRY and advice not in NO_RETRY_ADVICE
    return Declined(decline or code or "unknown", message or "the card was declined", retry)


def _text(found: Mapping[str, object], name: str, limit: int = MAX_CODE_CHARS) -> str:
    """Return a part that is text; empty for another value."""
    text = found.get(name)
    return clean(text, limit) if isinstance(text, str) else ""


SESSIONS: Final = "/v1/checkout/sessions"
PORTAL: Final = "/v1/billing_portal/sessions"
CARD_PAGE: Final = "drawdown_card_page"
NEWEST_PAGES: Final = 20
"""Newest completed checkout pages of a customer that Drawdown searches for a card."""
MAX_URL_CHARS: Final = 5_000
"""Most characters of a URL that Drawdown sends to Stripe or receives from it."""
LATEST_S: Final = 253_402_300_799
"""Latest end of a page of Stripe, in seconds (the end of the year 9999)."""

_CARD: Final = re.compile(r"[A-Za-z0-9_]{1,255}")


async def card_of(settings: StripeSettings, http: Http, customer_id: str, now_ms: int) -> str | NotSent:
    """Return the payment method to charge.

    Return NotSent, without a charge, if the payment method is missing or cannot be read.
    """
    result = await http.send(get(settings, path_of("v1", "customers", customer_id)))
    if isinstance(result, Answer) and result.status == 404 and error_of(result):
        return NotSent(described(result), None)
    customer = read_object(result)
    if isinstance(customer, ReadFailed):
        return _unread(result, "the customer", customer.reason, now_ms)
    if customer.get("id") != customer_id:
        return _unread(result, "the customer", "Stripe returned another customer", now_ms)
    if customer.get("deleted") is True:
        return NotSent(f"the customer {clean(customer_id)} was deleted at Stripe", None)
    chosen = _card_in(customer.get("invoice_settings"), "default_payment_method")
    return chosen or await _card_from_page(settings, http, customer_id, now_ms)


async def _card_from_page(settings: StripeSettings, http: Http, customer_id: str, now_ms: int) -> str | NotSent:
    """Return the card that the customer entered last on a page of ours.

    Stripe does not make it the default.
    """
    asked = {
        "customer": customer_id,
        "status": "complete",
        "limit": str(NEWEST_PAGES),
        "expand[]": "data.setup_intent",
    }
    result = await http.send(get(settings, SESSIONS, asked))
    found = read_object(result)
    if isinstance(found, ReadFailed):
        return _unread(result, "the customer's cards", found.reason, now_ms)
    pages = found.get("data")
    for page in pages if isinstance(pages, list) else []:
        if isinstance(page, dict) and _is_ours(page, customer_id):
            card = _card_in(page.get("setup_intent"), "payment_method")
            if card:
                return card
    return NotSent("the customer does not have a card on file", None)


def _is_ours(page: Mapping[str, object], customer_id: str) -> bool:
    metadata, setup = page.get("metadata"), page.get("setup_intent")
    ours = isinstance(metadata, dict) and metadata.get(CARD_PAGE) == "1"
    done = isinstance(setup, dict) and setup.get("status") == "succeeded"
    return ours and done and page.get("customer") == customer_id


def _card_in(found: object, name: str) -> str | None:
    """Return the id of a payment method.

    Stripe sends an id, or the whole payment method.
    """
    card = found.get(name) if isinstance(found, dict) else None
    text = card.get("id") if isinstance(card, dict) else card
    return text if isinstance(text, str) and _CARD.fullmatch(text) else None


def _unread(result: HttpResult, what: str, why: str, now_ms: int) -> NotSent:
    refused = isinstance(result, Answer) and result.status in (401, 403)
    headers = result.headers if isinstance(result, Answer) else {}
    wait = KEY_WAIT_MS if refused else wait_ms(headers, 1, now_ms)
    return NotSent(clean(f"{what} could not be read: {why}"), now_ms + wait)


async def card_page(settings: StripeSettings, http: Http, customer_id: str, return_url: str) -> Link | NoLink:
    """Return a Checkout page in setup mode.

    The customer enters a card on the page, and is not charged.
    """
    form = {
        "mode": "setup",
        "customer": customer_id,
        "payment_method_types[0]": "card",
        "success_url": return_url,
        "cancel_url": return_url,
        f"metadata[{CARD_PAGE}]": "1",
    }
    return await _page(settings, http, SESSIONS, form, return_url)


async def portal(settings: StripeSettings, http: Http, customer_id: str, return_url: str) -> Link | NoLink:
    """Return a page of the customer portal.

    You must first set up the portal in Stripe's dashboard.
    """
    return await _page(settings, http, PORTAL, {"customer": customer_id, "return_url": return_url}, return_url)


async def _page(
    settings: StripeSettings, http: Http, path: str, form: Mapping[str, str], return_url: str
) -> Link | NoLink:
    if not is_customer(form["customer"]):
        return NoLink("the customer id is not an id of Stripe")
    if not _is_url(return_url, ("https", "http")):
        return NoLink("invalid return URL: expected an http or https URL")
    result = await http.send(post(settings, path, form))
    if not isinstance(result, Answer):
        return NoLink(clean(result.reason))
    found = json_object(result.body) if result.status == 200 else None
    if found is None:
        return NoLink(described(result))
    url, expires_s = found.get("url"), found.get("expires_at")
    if not isinstance(url, str) or not _is_url(url, ("https",)) or found.get("customer") != form["customer"]:
        return NoLink("HTTP 200 without a page of this customer")
    known = type(expires_s) is int and 0 < expires_s <= LATEST_S
    return Link(url, expires_s * SECOND_MS if known and isinstance(expires_s, int) else None)


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    if len(text) > MAX_URL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and not parts.username
    except ValueError:
        return False
