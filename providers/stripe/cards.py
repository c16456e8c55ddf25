"""The card that a customer of Stripe is charged on, and the pages where customers put in and change theirs.

Guarantee: it charges nothing. A card is one that the customer chose: their default, or else the one they put in on a
page of ours. Sources: docs.stripe.com (api/customers, payments/checkout/save-and-reuse, api/customer_portal/sessions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from drawdown.providers.http import Answer, Http, HttpResult
from drawdown.providers.payments.protocol import Link, NoLink, NotSent
from drawdown.providers.protocol import ReadFailed
from drawdown.providers.stripe.intents import is_customer
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import (
    KEY_WAIT_MS,
    clean,
    described,
    error_of,
    get,
    json_object,
    path_of,
    post,
    read_object,
    wait_ms,
)
from drawdown.schema.units import SECOND_MS

SESSIONS: Final = "/v1/checkout/sessions"
PORTAL: Final = "/v1/billing_portal/sessions"
CARD_PAGE: Final = "drawdown_card_page"
NEWEST_PAGES: Final = 20
"""Of a customer's finished pages, so many are looked through for a card."""
MAX_URL_CHARS: Final = 5_000
LATEST_S: Final = 253_402_300_799

_CARD: Final = re.compile(r"[A-Za-z0-9_]{1,255}")


async def card_of(settings: StripeSettings, http: Http, customer_id: str, now_ms: int) -> str | NotSent:
    """The payment method to charge. NotSent where there is none, or it could not be read: nothing was charged yet."""
    result = await http.send(get(settings, path_of("v1", "customers", customer_id)))
    if isinstance(result, Answer) and result.status == 404 and error_of(result):
        return NotSent(described(result), None)
    customer = read_object(result)
    if isinstance(customer, ReadFailed):
        return _unread(result, "the customer", customer.reason, now_ms)
    if customer.get("id") != customer_id:
        return _unread(result, "the customer", "another one came", now_ms)
    if customer.get("deleted") is True:
        return NotSent(f"the customer {clean(customer_id)} was deleted at Stripe", None)
    chosen = _card_in(customer.get("invoice_settings"), "default_payment_method")
    return chosen or await _card_from_page(settings, http, customer_id, now_ms)


async def _card_from_page(settings: StripeSettings, http: Http, customer_id: str, now_ms: int) -> str | NotSent:
    """The card that the customer put in last on a page of ours. Stripe keeps it, and makes it nobody's default."""
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
    return NotSent("the customer has no card on file", None)


def _is_ours(page: Mapping[str, object], customer_id: str) -> bool:
    metadata, setup = page.get("metadata"), page.get("setup_intent")
    ours = isinstance(metadata, dict) and metadata.get(CARD_PAGE) == "1"
    done = isinstance(setup, dict) and setup.get("status") == "succeeded"
    return ours and done and page.get("customer") == customer_id


def _card_in(found: object, name: str) -> str | None:
    """Stripe gives an id, or the whole payment method."""
    card = found.get(name) if isinstance(found, dict) else None
    text = card.get("id") if isinstance(card, dict) else card
    return text if isinstance(text, str) and _CARD.fullmatch(text) else None


def _unread(result: HttpResult, what: str, why: str, now_ms: int) -> NotSent:
    refused = isinstance(result, Answer) and result.status in (401, 403)
    headers = result.headers if isinstance(result, Answer) else {}
    wait = KEY_WAIT_MS if refused else wait_ms(headers, 1, now_ms)
    return NotSent(clean(f"{what} could not be read: {why}"), now_ms + wait)


async def card_page(settings: StripeSettings, http: Http, customer_id: str, return_url: str) -> Link | NoLink:
    """A Checkout page in setup mode: the customer puts in a card, and is charged nothing."""
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
    """A page of the customer portal, which the dashboard has to have set up once."""
    return await _page(settings, http, PORTAL, {"customer": customer_id, "return_url": return_url}, return_url)


async def _page(
    settings: StripeSettings, http: Http, path: str, form: Mapping[str, str], return_url: str
) -> Link | NoLink:
    if not is_customer(form["customer"]):
        return NoLink("that is no customer's id at Stripe")
    if not _is_url(return_url, ("https", "http")):
        return NoLink("the page to return to is no http(s) URL")
    result = await http.send(post(settings, path, form))
    if not isinstance(result, Answer):
        return NoLink(clean(result.reason))
    found = json_object(result.body) if result.status == 200 else None
    if found is None:
        return NoLink(described(result))
    url, expires_s = found.get("url"), found.get("expires_at")
    if not isinstance(url, str) or not _is_url(url, ("https",)) or found.get("customer") != form["customer"]:
        return NoLink("HTTP 200, but no page of this customer")
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
