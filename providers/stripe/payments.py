"""Stripe as a payment service: one PaymentIntent for each charge, confirmed at once while the customer is away.

Guarantee: the charge's id is the Idempotency-Key and stands in the intent's metadata, so the same charge is made once
however often it is called within 24 hours, and is found again by its id. Nothing is retried here. Nothing was tried
against Stripe itself. A restricted key needs Payment Intents, Checkout Sessions and Customer portal: write, and
Customers: read.

Why a look-up lists. Stripe's search by metadata trails behind by a minute, in an outage by an hour, and is closed to
accounts in India; Stripe says not to rest on it after a write (docs.stripe.com/search). A list is not subject to that.
So the customer's intents are listed from when the charge was decided on, and those with its id picked out. What is left
of the lag is our own call: we may have given it up while Stripe still works on it.

Two things to know. A saved 500 is replayed for a day: calling again meets it, and only a look-up tells. And the card is
part of the call: where the customer changes it between two attempts, Stripe refuses the second as other content. Then
`charge` looks up what became of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from drawdown.providers.http import Http
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    InDoubt,
    Link,
    NoLink,
    NotFound,
    NotSent,
    OtherContent,
    PaymentCapabilities,
)
from drawdown.providers.protocol import HOUR_MS, ReadFailed, Setup
from drawdown.providers.stripe import cards
from drawdown.providers.stripe.intents import (
    INTENT_ID,
    LEAST,
    MAX_AMOUNT,
    PAYMENT_INTENTS,
    created,
    creation,
    customer_of,
    is_of,
    judged,
    sent_before,
    unfit,
)
from drawdown.providers.stripe.settings import StripeSettings, read_settings
from drawdown.providers.stripe.wire import MAX_RETRY_MS, clean, get, read_object
from drawdown.schema.clock import Clock
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS

NAME: Final = "stripe"
DORMANT: Final = "DRAWDOWN_STRIPE_SECRET_KEY is not set"
PAGE: Final = 100
MAX_PAGES: Final = 20
"""Of one customer's payments since a charge was decided on; beyond them a look-up stays in doubt."""
CLOCKS_MS: Final = HOUR_MS
"""How far our clock may be ahead of Stripe's without a look-up missing an intent."""
LOOKUP_LAG_MS: Final = 10 * MINUTE_MS
"""A call is given up after half a minute, and Stripe's own clients wait for 80 s."""


class StripePayments:
    """Charges by v1 PaymentIntents. It has the settings of the billing provider of the same name."""

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
        card = await cards.card_of(self._settings, self._http, request.customer_id, self._clock.now_ms())
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
            return InDoubt(f"it cannot be looked up: {wrong}")
        found = await self._intents_of(request)
        if isinstance(found, InDoubt):
            return found
        if len(found) > 1:
            names = ", ".join(sorted(clean(name, 40) for name in found))
            return OtherContent(f"{len(found)} payments carry this charge's id: {clean(names)}")
        return judged(next(iter(found.values())), request) if found else NotFound()

    async def _intents_of(self, request: Charge) -> Mapping[str, Mapping[str, object]] | InDoubt:
        """Those that carry the charge's id, by their own; the list may name one twice. InDoubt where the list could not
        be read to its end, unless what was read holds the charge."""
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
        return found or InDoubt(f"the customer has more than {MAX_PAGES * PAGE} payments since")

    async def _page(
        self, params: Mapping[str, str], request: Charge
    ) -> tuple[Sequence[Mapping[str, object]], bool] | InDoubt:
        """One page, and whether another follows. Absence rests on it, so it has to be a whole list of this customer."""
        page = read_object(await self._http.send(get(self._settings, PAYMENT_INTENTS, params)))
        if isinstance(page, ReadFailed):
            return InDoubt(f"the payments could not be read: {page.reason}")
        data, goes_on = page.get("data"), page.get("has_more")
        if page.get("object") != "list" or not isinstance(data, list) or not isinstance(goes_on, bool):
            return InDoubt("HTTP 200, but no list of payments")
        if goes_on and not data:
            return InDoubt("a list that goes on, but not where")
        for item in data:
            name = item.get("id") if isinstance(item, dict) else None
            if not isinstance(name, str) or not INTENT_ID.fullmatch(name):
                return InDoubt("HTTP 200, but no list of payments")
            if customer_of(item) != request.customer_id and not is_of(item, request):
                return InDoubt("asked for one customer's payments, another's came")
        return data, goes_on

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        if self.dormant:
            return NoLink(self.dormant)
        return await cards.card_page(self._settings, self._http, customer_id, return_url)

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        if self.dormant:
            return NoLink(self.dormant)
        return await cards.portal(self._settings, self._http, customer_id, return_url)


def build(setup: Setup) -> StripePayments:
    """From the settings of the billing provider; charges may have a key of their own. Errors: UsageError."""
    settings = read_settings(setup.settings)
    key = settings.payments_key or settings.secret_key
    return StripePayments(replace(settings, secret_key=key), setup.http, setup.clock)
