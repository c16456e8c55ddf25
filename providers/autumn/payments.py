"""Autumn as a payment service.

Each charge attaches a plan of one prepaid feature once.

Guarantee: a charge is attached at most once. Before a charge, Drawdown reads the amount from Autumn (`preview_attach`).
If the amount differs, Drawdown does not attach. If a response does not prove whether money was taken, the charge stays
in doubt, and a person decides. A lookup never reports "paid" or "not found", because Autumn's facts cannot prove
either.

Recorded on a running server (August 2026): `billing.attach` without a Stripe account is a 400 `invalid_request`. Autumn
allows 30 calls a minute. All customers and routes share the namespace of the header's key. A key lasts a day, and its
store fails open.

Read in the open-source server and at docs.useautumn.com, and not tried: the responses of attach and its preview. Autumn
processes one call for a customer at a time. `metadata` goes onto Stripe's invoice, where a person finds our id, but
`customers.get` returns invoices without it. If Autumn cannot save an invoice, it only logs that. Autumn's own top-ups
use a random key for each call, so their keys do not distinguish purchases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from drawdown.providers.autumn import settings as autumn_settings
from drawdown.providers.autumn import wire
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.http import PUSH_ANSWER_BYTES, READ_TIMEOUT_S, TIMEOUT_S, Answer, Call, Http, HttpResult
from drawdown.providers.http import NotSent as NeverLeft
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    Link,
    NeedsCustomer,
    NoLink,
    NotSent,
    OtherContent,
    Payment,
    PaymentCapabilities,
)
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import Clock
from drawdown.schema.text import clean, quote_value
from drawdown.schema.units import DAY_MS, MINUTE_MS

METADATA: Final = "drawdown_charge"
NEVER_MS: Final = 100 * 365 * DAY_MS
"""A lag that never ends, because absence is never proof."""
MAX_NAMED: Final = 5
"""Invoices that a lookup lists for the person who decides."""
MAX_CHARS: Final = 200
"""Most characters of Autumn's texts that Drawdown quotes in an outcome."""
UNREAD_MS: Final = 5 * MINUTE_MS
"""Milliseconds before Drawdown retries an unsent charge at Autumn.

A charge is unsent if its call never left this machine, or if a read that must come before it failed.
"""
MAX_URL_CHARS: Final = 5_000
"""Most characters of the URL of a page at Autumn."""
MAX_READ_BYTES: Final = 1024 * 1024
"""Largest size of Autumn's response to a read, such as a customer with all its invoices."""

_JSON: Final = json.JSONEncoder(separators=(",", ":"))


class AutumnPayments:
    """A payment service that charges the card of an Autumn customer.

    The service attaches the plan for top-ups once for each charge. It uses the settings of the billing provider of the
    same name.
    """

    capabilities = PaymentCapabilities(
        key_retention_ms=0,  # its store fails open, so Autumn may forget a key at any time
        lookup_lag_ms=NEVER_MS,
        applied_within_ms=NEVER_MS,
        most=wire.MAX_QUANTITY,
    )

    def __init__(self, settings: AutumnSettings, http: Http, clock: Clock) -> None:
        self.name = settings.name
        self.dormant = _dormant(settings)
        self._settings = settings
        self._http = http
        self._clock = clock

    async def charge(self, request: Charge) -> ChargeResult:
        if self.dormant:
            return NotSent(self.dormant, self._clock.now_ms() + wire.REFUSED_MS)
        if not autumn_settings.ID.fullmatch(request.customer_id):
            wrong_id = quote_value(request.customer_id)
            return NotSent(f"invalid customer id {wrong_id}: Autumn accepts letters, digits, _ - and :", None)
        wrong = await self._unfit(request)
        if wrong is not None:
            return wrong
        key = hashlib.sha256(request.charge_id.encode()).hexdigest()
        body = {**self._purchase(request), "redirect_mode": "never", "metadata": {METADATA: request.charge_id}}
        answer = await self._send("billing.attach", body, TIMEOUT_S, key=f"drawdown-{key}")
        return attached(answer, request, self._clock.now_ms())

    async def _unfit(self, request: Charge) -> NotSent | None:
        """Return the reason not to make the charge now, by reads alone.

        Return None if the reads do not show a reason.
        """
        fills = await self.fills_itself(request.customer_id)
        if fills is not None:
            return NotSent(fills.reason, self._clock.now_ms() + UNREAD_MS if isinstance(fills, InDoubt) else None)
        found = await self._read("billing.preview_attach", self._purchase(request))
        if isinstance(found, NotSent):
            return found
        total, currency = wire.number(found.get("total")), found.get("currency")
        if total != request.amount or not isinstance(currency, str) or currency.lower() != request.currency:
            would = f"{total} {clean(str(currency), 10)}"
            return NotSent(
                f"Autumn would take {would} for {request.amount} of {self._settings.topup_feature}. Set the price of "
                f"the plan {self._settings.topup_plan} to one minor unit of {request.currency} for each unit of the "
                "feature",
                None,
            )
        return None

    async def look_up(self, request: Charge) -> ChargeResult:
        """Return the charge as in doubt, with the invoices that a person must check.

        If the invoices cannot be read, the result says so.
        """
        if self.dormant:
            return InDoubt(self.dormant)
        found = await self._read("customers.get", {"customer_id": request.customer_id, "expand": ["invoices"]})
        if isinstance(found, NotSent):
            return InDoubt(found.reason)
        return InDoubt(
            f"Autumn does not store Drawdown's ids. Find the invoice with the metadata {METADATA} = "
            f"{request.charge_id} at Stripe, then run `drawdown topup resolve TOPUP --paid INVOICE --evidence TEXT`. "
            + _listed(found, request)
        )

    async def fills_itself(self, customer_id: str) -> NotSent | InDoubt | None:
        """Return NotSent if Autumn itself tops this customer up; None if it does not.

        Return NotSent also if Autumn refuses to return the customer, for example because it does not exist. After
        NotSent, Drawdown must not top up. Return InDoubt if Autumn's setting could not be read.
        """
        found = await self._read("customers.get", {"customer_id": customer_id})
        if isinstance(found, NotSent):
            return found if found.retry_at_ms is None else InDoubt(found.reason)
        rules = _topup_rules(found, customer_id)
        if rules is None:
            return InDoubt("customers.get: HTTP 200 without readable settings of this customer's top-ups")
        on = [one for one in rules if one["enabled"]]
        if not on:
            return None
        of = clean(", ".join(sorted(str(one.get("feature_id")) for one in on)), MAX_CHARS)
        return NotSent(
            f"Autumn tops up this customer itself ({of}). Stop the top-ups at Autumn, or those of Drawdown", None
        )

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return await self._link("billing.setup_payment", {"customer_id": customer_id, "success_url": return_url})

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return await self._link("billing.open_customer_portal", {"customer_id": customer_id, "return_url": return_url})

    async def _link(self, route: str, body: Mapping[str, object]) -> Link | NoLink:
        if self.dormant:
            return NoLink(self.dormant)
        if not str(body.get("success_url", body.get("return_url"))).startswith(("https://", "http://")):
            return NoLink("invalid return URL: expected an http or https URL")
        found = await self._read(route, body)
        if isinstance(found, NotSent):
            return NoLink(found.reason)
        url = found.get("url")
        ours = found.get("customer_id") == body["customer_id"]
        if not ours or not isinstance(url, str) or not url.startswith("https://") or len(url) > MAX_URL_CHARS:
            return NoLink("HTTP 200 without a page of this customer")
        return Link(url, None)

    def _purchase(self, request: Charge) -> dict[str, object]:
        quantity = {"feature_id": self._settings.topup_feature, "quantity": request.amount}
        return {
            "customer_id": request.customer_id,
            "plan_id": self._settings.topup_plan,
            "feature_quantities": [quantity],
        }

    async def _read(self, route: str, body: Mapping[str, object]) -> Mapping[str, object] | NotSent:
        """Make a call that does not take money, and return its response."""
        result = await self._send(route, body, READ_TIMEOUT_S)
        now_ms = self._clock.now_ms()
        if not isinstance(result, Answer):
            return NotSent(clean(f"{route}: {result.reason}", MAX_CHARS), now_ms + UNREAD_MS)
        found = wire.parse(result.body) if result.status == 200 else None
        if found is not None and found.get("id", found.get("customer_id")) in (None, body["customer_id"]):
            return found
        said = wire.read_said(result)
        fixed = said.code is not None and result.status in (400, 404) and wire.access_trouble(said) is None
        why = wire.access_trouble(said) or f"{route}: {said}"
        return NotSent(clean(why, MAX_CHARS), None if fixed else now_ms + UNREAD_MS)

    async def _send(self, route: str, body: Mapping[str, object], timeout_s: float, key: str = "") -> HttpResult:
        headers = {
            "authorization": f"Bearer {self._settings.secret_key}",
            "content-type": "application/json",
            "accept": "application/json",
            "x-api-version": wire.VERSION,
            **({"idempotency-key": key} if key else {}),
        }
        most = PUSH_ANSWER_BYTES if key else MAX_READ_BYTES
        url = f"{self._settings.url}/v1/{route}"
        return await self._http.send(Call("POST", url, headers, _JSON.encode(body).encode(), timeout_s, most))


def _dormant(settings: AutumnSettings) -> str | None:
    for name in ("secret_key", "topup_plan", "topup_feature"):
        if not getattr(settings, name):
            return f"{settings.variable(name)} is not set"
    return None


def attached(result: HttpResult, charge: Charge, now_ms: int) -> ChargeResult:
    """Return the outcome of the call that takes money.

    The outcome is NotSent if the call was never sent. It is also NotSent if Autumn answered before it claimed the
    idempotency key. Recorded calls show this for a 429, and for a 401 or 403 that refuses the API key. After any other
    error the card may be charged, so the outcome is InDoubt. A 200 decides by its invoice, or by the action that it
    requires.
    """
    if isinstance(result, NeverLeft):
        return NotSent(clean(f"not sent: {result.reason}", MAX_CHARS), now_ms + UNREAD_MS)
    if not isinstance(result, Answer):
        return InDoubt(clean(f"no response: {result.reason}", MAX_CHARS))
    if result.status == 429:
        wait_ms = wire.retry_after_ms(result.headers, now_ms) or UNREAD_MS
        return NotSent("HTTP 429: too many calls", now_ms + wait_ms)
    said = wire.read_said(result)
    if result.status in (401, 403) and wire.access_trouble(said) is not None:
        return NotSent(str(wire.access_trouble(said)), now_ms + wire.REFUSED_MS)
    found = wire.parse(result.body) if result.status == 200 else None
    if found is None or found.get("customer_id") != charge.customer_id:
        return InDoubt(clean(f"attach: {said}", MAX_CHARS))
    return _judge_invoice(found, charge)


def _judge_invoice(found: Mapping[str, object], charge: Charge) -> ChargeResult:
    invoice, action = found.get("invoice"), found.get("required_action")
    parts = action if isinstance(action, dict) else {}
    code, reason = (clean(str(parts.get(name) or ""), MAX_CHARS) for name in ("code", "reason"))
    if isinstance(invoice, dict):
        name, status = invoice.get("stripe_id"), invoice.get("status")
        if status == "paid" and isinstance(name, str) and name:
            total, currency = wire.number(invoice.get("total")), str(invoice.get("currency")).lower()
            if total != charge.amount or currency != charge.currency:
                return OtherContent(clean(f"{name} is paid, but with another amount: {total} {currency}", MAX_CHARS))
            return Payment(clean(name, MAX_CHARS), charge.amount, charge.currency)
        if status != "void":
            # Stripe may retry an open invoice, and the customer may pay it, so the outcome is still unknown.
            return InDoubt(
                clean(
                    f"the invoice {name} is {status}. Void it at Stripe, then run `drawdown topup resolve TOPUP "
                    f"--absent --evidence TEXT`. {reason}",
                    MAX_CHARS,
                )
            )
    if found.get("payment_url"):
        return InDoubt("Autumn opened a page where the customer may pay, which Drawdown did not request")
    match code:
        case "payment_method_required":
            return NotSent(reason or "the customer does not have a card on file", None)
        case "3ds_required":
            return NeedsCustomer(reason or "the bank requires the customer to confirm the payment")
        case "payment_failed":
            return Declined(code, reason or "the card was declined", retry=True)
    return InDoubt(f"HTTP 200 without an invoice: {code or 'no action'}")


def _topup_rules(found: Mapping[str, object], customer_id: str) -> list[Mapping[str, object]] | None:
    """Return the rules of Autumn's own top-ups; None if they are unreadable."""
    controls = found.get("billing_controls")
    controls = {} if controls is None else controls
    if found.get("id") != customer_id or not isinstance(controls, dict):
        return None
    rules = controls.get("auto_topups")
    rules = [] if rules is None else rules
    if not isinstance(rules, list) or not all(isinstance(one, dict) for one in rules):
        return None
    return rules if all(type(one.get("enabled")) is bool for one in rules) else None


def _listed(found: Mapping[str, object], charge: Charge) -> str:
    """Return a sentence with the invoices of the charge's customer since the charge."""
    listed = found.get("invoices") if found.get("id") == charge.customer_id else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        return "The customer's invoices cannot be read"
    since = [one for one in listed if _made_ms(one) >= charge.begun_ms - MINUTE_MS]
    named = "; ".join(_in_words(one) for one in since[:MAX_NAMED]) or "none"
    more = f" and {len(since) - MAX_NAMED} more" if len(since) > MAX_NAMED else ""
    return f"Invoices of the customer since the charge: {clean(named, 2 * MAX_CHARS)}{more}"


def _made_ms(invoice: Mapping[str, object]) -> int:
    made = invoice.get("created_at")
    return made if type(made) is int else NEVER_MS


def _in_words(invoice: Mapping[str, object]) -> str:
    return " ".join(str(invoice.get(name)) for name in ("stripe_id", "status", "total", "currency"))


def build(setup: Setup) -> AutumnPayments:
    """Build the payment service. The package's entry point names this function.

    Errors: UsageError for an invalid setting.
    """
    return AutumnPayments(autumn_settings.read(setup), setup.http, setup.clock)
