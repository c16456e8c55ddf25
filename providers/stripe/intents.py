"""One charge as a PaymentIntent of Stripe: the call that makes it, and what an answer says became of it.

Guarantee: "paid" needs an intent with our id, amount, currency and customer that says it has received the whole amount.
"Declined" needs Stripe's own words that the card was refused. Whatever else may have charged is in doubt.

Facts (docs.stripe.com: api/payment_intents, declines/codes, declines/card, error-low-level, idempotent_requests):

- An Idempotency-Key gives its first answer again, a 402 or a 500 too, for at least 24 hours. Other parameters under it
  are an `idempotency_error`. While the first call is under way, a second one is a 409 `idempotency_key_in_use`.
- With `off_session` a card whose bank wants the customer is refused with 402 `authentication_required`. An intent that
  was refused stays in `requires_payment_method`; nobody but we could confirm it again, and we never do.
- Since 2023 an intent takes every kind of payment that the dashboard allows, and is refused without a `return_url`
  unless redirects are excluded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer
from drawdown.providers.http import NotSent as NeverLeft
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    NeedsCustomer,
    NotSent,
    OtherContent,
    Paid,
)
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import (
    KEY_WAIT_MS,
    MAX_TEXT,
    clean,
    described,
    error_of,
    header_key,
    json_object,
    post,
    wait_ms,
)

PAYMENT_INTENTS: Final = "/v1/payment_intents"
METADATA: Final = "drawdown_charge"
MAX_CHARGE_ID_CHARS: Final = 1_000
MAX_CUSTOMER_CHARS: Final = 255
MAX_CODE_CHARS: Final = 60
MAX_AMOUNT: Final = 99_999_999
"""Eight digits, of any currency but a few."""
LEAST: Final = {
    **dict.fromkeys(("usd", "eur", "cad", "aud", "nzd", "sgd", "chf", "brl", "inr", "jpy"), 50),
    **{"gbp": 30, "dkk": 250, "nok": 300, "sek": 300, "hkd": 400, "pln": 200, "czk": 1500, "mxn": 1000, "aed": 200},
}
"""Stripe's least amounts. It compares them in the currency it pays out in: one near the edge may still be refused."""

NO_RETRY: Final = frozenset(
    {
        # What Stripe itself refuses to try again with the same card (billing/revenue-recovery/smart-retries).
        *("incorrect_number", "lost_card", "pickup_card", "stolen_card", "highest_risk_level"),
        *("revocation_of_authorization", "revocation_of_all_authorizations", "transaction_not_allowed"),
        # What its table of decline codes answers with another card, or with the bank alone.
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
"""How an intent stands whose card was refused."""


def unfit(charge: Charge) -> str | None:
    """Why a charge can never be sent to Stripe; None where it can."""
    if not 0 < len(charge.charge_id) <= MAX_CHARGE_ID_CHARS or not charge.charge_id.isprintable():
        return "its id is empty, too long, or does not print"
    if not is_customer(charge.customer_id):
        return "that is no customer's id at Stripe"
    if not _CURRENCY.fullmatch(charge.currency):
        return "its currency is not an ISO 4217 code in lower case"
    least = LEAST.get(charge.currency, 1)
    if type(charge.amount) is not int or not least <= charge.amount <= MAX_AMOUNT:
        return f"Stripe takes {least} to {MAX_AMOUNT} minor units of {charge.currency}"
    return None


def is_customer(text: str) -> bool:
    """Whether it can stand in a path: ids of old accounts may be of the account's own making."""
    return 0 < len(text) <= MAX_CUSTOMER_CHARS and text.isprintable() and text.strip(". ") == text


def creation(settings: StripeSettings, charge: Charge, card: str) -> Call:
    """The one call that takes money. The same charge and card make the same bytes."""
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
    """Whether an intent carries the charge's id."""
    metadata = intent.get("metadata")
    return isinstance(metadata, dict) and metadata.get(METADATA) == header_key(charge.charge_id)


def customer_of(found: Mapping[str, object]) -> str | None:
    """Whose it is; Stripe gives an id, or the whole customer."""
    customer = found.get("customer")
    who = customer.get("id") if isinstance(customer, dict) else customer
    return who if isinstance(who, str) else None


def sent_before(result: HttpResult) -> bool:
    """Whether Stripe refused a call because its id came before with other content, or on another card."""
    error = error_of(result) if isinstance(result, Answer) and result.status == 400 else None
    return error is not None and error.type == "idempotency_error" and error.code != "idempotency_key_in_use"


def created(result: HttpResult, charge: Charge, now_ms: int) -> ChargeResult:
    """What came of the call that takes money."""
    if isinstance(result, NeverLeft):
        return NotSent(clean(f"not sent: {result.reason}"), now_ms + wait_ms({}, 1, now_ms))
    if isinstance(result, NoAnswer):
        return InDoubt(clean(f"no answer: {result.reason}"))
    if result.status == 200:
        found = json_object(result.body) or {}
        if found.get("object") == "payment_intent" and is_of(found, charge):
            return judged(found, charge)
        return InDoubt("HTTP 200, but not for this charge")
    if result.status in (401, 403):
        return NotSent(f"Stripe refuses the key: {described(result)}", now_ms + KEY_WAIT_MS)
    if result.status == 402:
        return _refused_card(result, charge)
    if 400 <= result.status < 500:
        return _refused(result, now_ms)
    return InDoubt(described(result))


def _refused(answer: Answer, now_ms: int) -> ChargeResult:
    """A 4xx that is about no card."""
    error = error_of(answer)
    if error is not None and error.code in ("lock_timeout", "idempotency_key_in_use"):
        # A lock may be met in the middle of the work, and a key in use is a call of ours that is under way.
        return InDoubt(described(answer))
    if answer.status == 429 or (error is not None and error.code == "rate_limit"):
        # Comes before anything is done, whoever says it.
        return NotSent(described(answer), now_ms + wait_ms(answer.headers, 1, now_ms))
    if sent_before(answer):
        return OtherContent(f"this charge was sent before with other content, or on another card: {described(answer)}")
    if error is None or answer.status == 409:
        return InDoubt(described(answer))
    if error.type != "invalid_request_error" or _error_part(answer, "payment_intent"):
        return InDoubt(described(answer))
    return NotSent(described(answer), None)


def _refused_card(answer: Answer, charge: Charge) -> ChargeResult:
    """A 402, with the error and the intent as it stands now."""
    error, intent = error_of(answer), _error_part(answer, "payment_intent")
    if error is None or error.type != "card_error":
        return InDoubt(described(answer))
    if intent:
        if not is_of(intent, charge):
            return InDoubt("HTTP 402, but not for this charge")
        if _difference(intent, charge) or intent.get("status") not in _REFUSED:
            return judged(intent, charge)
    return _declined((json_object(answer.body) or {}).get("error"))


def _error_part(answer: Answer, name: str) -> Mapping[str, object]:
    error = (json_object(answer.body) or {}).get("error")
    part = error.get(name) if isinstance(error, dict) else None
    return part if isinstance(part, dict) else {}


def judged(intent: Mapping[str, object], charge: Charge) -> ChargeResult:
    """What an intent that carries the charge's id says of it."""
    payment_id, status = intent.get("id"), intent.get("status")
    if not isinstance(payment_id, str) or not INTENT_ID.fullmatch(payment_id):
        return InDoubt("a payment without an id")
    difference = _difference(intent, charge)
    if difference:
        return OtherContent(f"{payment_id} carries this charge's id, but {difference}")
    match status:
        case "succeeded":
            return _succeeded(intent, payment_id, charge)
        case "canceled":
            why = _text(intent, "cancellation_reason")
            # A person who cancels one payment does not want the next.
            retry = why not in ("fraudulent", "requested_by_customer")
            return Declined("canceled", f"{payment_id} was cancelled: {why}", retry)
        case "requires_action":
            return NeedsCustomer(f"{payment_id} waits for the customer")
        case "requires_payment_method" if isinstance(intent.get("last_payment_error"), dict):
            return _declined(intent.get("last_payment_error"))
        case "processing":
            return InDoubt(f"{payment_id} is under way")
    # Not confirmed, or authorised and not captured: nothing that our call leaves behind. A person cancels it there.
    return InDoubt(f"{payment_id} is {_text(intent, 'status')}")


def _succeeded(intent: Mapping[str, object], payment_id: str, charge: Charge) -> ChargeResult:
    received = intent.get("amount_received")
    if type(received) is not int:
        return InDoubt(f"{payment_id} does not say how much was received")
    if received != charge.amount:
        return OtherContent(f"{payment_id} received another amount than {charge.amount} {charge.currency}")
    return Paid(payment_id, received, charge.currency)


def _difference(intent: Mapping[str, object], charge: Charge) -> str:
    """In what an intent is not this charge; empty where it is."""
    if type(intent.get("amount")) is not int or intent["amount"] != charge.amount:
        return f"not the amount {charge.amount}"
    if intent.get("currency") != charge.currency:
        return f"not the currency {charge.currency}"
    return "" if customer_of(intent) == charge.customer_id else "not its customer"


def _declined(error: object) -> ChargeResult:
    """What a card error says: `decline_code` is the bank's reason, `code` Stripe's."""
    parts = error if isinstance(error, dict) else {}
    code, decline, advice = (_text(parts, name) for name in ("code", "decline_code", "advice_code"))
    message = _text(parts, "message", MAX_TEXT)
    if WANTS_CUSTOMER in (code, decline):
        return NeedsCustomer(message or WANTS_CUSTOMER)
    retry = not {code, decline} & NO_RETRY and advice not in NO_RETRY_ADVICE
    return Declined(decline or code or "unknown", message or "the card was declined", retry)


def _text(found: Mapping[str, object], name: str, limit: int = MAX_CODE_CHARS) -> str:
    """A part that is text, else nothing."""
    text = found.get(name)
    return clean(text, limit) if isinstance(text, str) else ""
