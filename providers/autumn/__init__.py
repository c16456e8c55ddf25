"""Autumn (useautumn.com, hosted or on your own server) as a billing provider.

Guarantee: a charge is one HTTP call. This package does not retry or wait. It reports only an outcome that a response
proves. Autumn's claim of a duplicate is not proof, so Drawdown looks the push up. The nightly comparison reads balances
and events back, because a 200 of Autumn is not durable and its key store fails open. These facts were observed on a
running server in August 2026.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from drawdown.providers.autumn import customers, wire
from drawdown.providers.autumn import settings as autumn_settings
from drawdown.providers.autumn.check import CheckReport, balance_feature_fault, feature_lines
from drawdown.providers.autumn.credits import AutumnAccount, Unreadable
from drawdown.providers.autumn.customers import AutumnCustomer, candidates, drawn, read_customer
from drawdown.providers.autumn.events import EventReader, failed
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.http import PUSH_ANSWER_BYTES, READ_TIMEOUT_S, Answer, Call, HttpResult
from drawdown.providers.kit import webhooks
from drawdown.providers.protocol import (
    Accepted,
    Capabilities,
    Cost,
    CustomerChanged,
    CustomerRead,
    Drawn,
    LookupResult,
    NoCustomer,
    Notice,
    Outcome,
    PushRequest,
    ReadFailed,
    Rejected,
    RetryAt,
    Setup,
    ShownCredit,
    Totals,
    WebhookRefused,
)
from drawdown.schema.clock import Clock
from drawdown.schema.text import NEEDS_YOU, quote_value
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS

_JSON: Final = json.JSONEncoder(separators=(",", ":"))
CHANGES: Final = frozenset(
    {
        "billing.updated",
        "billing.auto_topup_succeeded",
        "billing.auto_topup_failed",
        "balances.limit_reached",
        "balances.usage_alert_triggered",
        "customer.products.updated",
        "customer.threshold_reached",
    }
)
"""Types of webhooks after which Drawdown reads the customer again.

Drawdown accepts and ignores other types.
"""

BALANCE_LAG_MS: Final = 30 * SECOND_MS
"""Milliseconds after a charge in which the customer's balance can still omit the charge."""


def capabilities(settings: AutumnSettings) -> Capabilities:
    """Return Autumn's capabilities.

    Drawdown does not use Autumn's batch call (batch_size 1). That call returns 200 even if an item failed, and silently
    drops duplicates, so its response does not prove a charge.
    """
    return Capabilities(
        batch_size=1,
        mode=settings.mode,
        in_flight=256,
        calls_per_s=settings.calls_per_s,
        # Each response states its limit in a header, such as `ratelimit-policy: 10000;w=1` for customers.get. For one
        # customer's events, the limit is 5 (observed in recorded calls). A read that Autumn refuses is retried once,
        # and again later.
        reads_per_s=10_000,
        # A lookup that does not find the key makes two calls. Autumn allows five calls a second, and two lookups use
        # four.
        lookups_per_s=2,
        key_retention_ms=settings.key_retention_ms,
        # In a recorded call, Autumn was killed between claim and deduction. From then on, it answered 409, and it never
        # charged.
        duplicate_proves_delivery=False,
        lookup_lag_ms=60 * SECOND_MS,
        lookup_span_ms=DAY_MS,
        # Autumn queues a charge while Autumn's store is down. Until the push's key expires, Autumn may still apply the
        # charge.
        applied_within_ms=settings.key_retention_ms,
        negatives=True,
        totals_lag_ms=5 * MINUTE_MS,
        balance_lag_ms=BALANCE_LAG_MS,
        drawn=True,
        costs=True,
        max_quantity=wire.MAX_QUANTITY,
        webhook_headers=webhooks.SIGNATURE_HEADERS,
    )


class AutumnProvider:
    """A provider that bills one Autumn account."""

    def __init__(self, setup: Setup, settings: AutumnSettings) -> None:
        self.name = setup.name
        self.capabilities = capabilities(settings)
        self.dormant = None if settings.secret_key else f"{settings.variable('secret_key')} is not set"
        self._settings = settings
        self._http = setup.http
        self._clock: Clock = setup.clock
        self._account = AutumnAccount(self._ask, setup.clock)
        self._body_key = True
        """True if a charge has its key in the body and in the header.

        False once Autumn refused the key in the body.
        """
        self._events = EventReader(self._ask, self._account)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [await self._charge(request) for request in batch]

    async def _charge(self, request: PushRequest) -> Outcome:
        refused = wire.unsendable(request)
        if refused is not None:
            return refused
        if self.dormant is not None:
            return RetryAt(self._clock.now_ms() + wire.REFUSED_MS, f"not sent: {self.dormant}", by_person=True)
        with_body_key = self._body_key
        body = wire.track(request, body_key=with_body_key)
        result = await self._send("track", body, wire.header_key(request.key))
        if with_body_key and wire.refuses_body_key(result):
            self._body_key = False
            return RetryAt(
                self._clock.now_ms(),
                "Autumn refuses idempotency_key in the body, so Drawdown sends it only in the header",
            )
        outcome = self._judge(request, result)
        if (
            wire.is_unmatched(request, result, outcome)
            or (wire.has_no_balance(request, result, outcome) and not self._account.schema.payers(request.feature))
        ) and await self._account.read_again():
            outcome = self._judge(request, result)
        if isinstance(outcome, Accepted) and isinstance(result, Answer):
            told = wire.parse(result.body) or {}
            return replace(
                outcome,
                shown_credit=await self._read_shown_credit(told),
                parts=customers.shown_parts(told, self._settings),
            )
        return outcome

    def _judge(self, request: PushRequest, result: HttpResult) -> Outcome:
        found = wire.outcome(request, result, self._clock.now_ms(), self._account.costs.of(request.feature))
        schema = self._account.schema
        system = schema.free_in(request.feature)
        if isinstance(found, Rejected) and found.until_credit and system is not None:
            return wire.costs_nothing(request, system)
        if wire.has_no_balance(request, result, found) and schema.is_in_none(request.feature):
            return wire.in_no_system(request)
        return found

    async def _read_shown_credit(self, body: Mapping[str, object]) -> ShownCredit | None:
        """Return the credit that the response to a charge shows.

        Return None while the list of features cannot be read.
        """
        balance = body.get("balance")
        if not isinstance(balance, dict):
            return None
        schema = await self._account.read_for_charge(str(balance.get("feature_id")))
        return customers.read_shown_credit(body, self._settings, schema)

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return {customer_id: await self._state(customer_id) for customer_id in customer_ids}

    async def _state(self, customer_id: str) -> CustomerRead:
        try:
            customer = await self._customer(customer_id)
            await self._account.read_if_needed(self._named(customer))
        except Unreadable as trouble:
            return NoCustomer() if trouble.their_code == "customer_not_found" else failed(trouble)
        if (fault := await self._setting_fault(customer)) is not None:
            return ReadFailed(f"{NEEDS_YOU}{fault}")
        return customers.state(customer, self._settings, self._account.schema)

    async def _setting_fault(self, customer: AutumnCustomer) -> str | None:
        """Return the fault of the setting BALANCE_FEATURE; None if it is valid.

        Without this check, Drawdown would read a wrong name as a balance of zero. If the customer has a balance of this
        name, the name is right.
        """
        schema = self._account.schema
        if self._settings.balance_feature in customer.balances.keys() - schema.features.keys():
            return None
        fault = balance_feature_fault(self._settings, schema)
        if fault is not None and await self._account.read_again():
            fault = balance_feature_fault(self._settings, self._account.schema)
        return fault

    def _named(self, customer: AutumnCustomer) -> set[str]:
        """Return the features of the customer's balances.

        A balance does not show whether its feature is used up or only held (seats). It also does not show which
        features it pays for.
        """
        return {found.feature for found in candidates(customer, self._settings)}

    async def _customer(self, customer_id: str) -> AutumnCustomer:
        if not autumn_settings.ID.fullmatch(customer_id):
            raise Unreadable(
                f"invalid customer id {quote_value(customer_id)}: Autumn accepts letters, digits, _ - and :",
                "customer_not_found",
            )
        told = await self._ask("customers.get", {"customer_id": customer_id})
        if told.get("id", customer_id) != customer_id:
            raise Unreadable(f"Autumn returned another customer than {customer_id}")
        return read_customer(told)

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost] | ReadFailed:
        try:
            return (await self._account.read_with_history(known)).costs(known)
        except Unreadable as trouble:
            return failed(trouble)

    async def lookup(self, request: PushRequest) -> LookupResult:
        return (await self.lookup_many([request]))[0]

    async def lookup_many(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        return await self._events.find(requests)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        return await self._events.totals(customer_id, from_ms, to_ms)

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        try:
            customer = await self._customer(customer_id)
            schema = await self._account.read_if_needed(self._named(customer))
        except Unreadable as trouble:
            return failed(trouble)
        return drawn(customer, self._settings, schema)

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        if not self._settings.webhook_secrets:
            raise WebhookRefused(f"{self._settings.variable('webhook_secrets')} is not set. Set it to accept webhooks")
        text = webhooks.verify(headers, body, self._settings.webhook_secrets, now_ms)
        told = wire.parse(text.encode())
        if told is None or not isinstance(told.get("type"), str):
            raise WebhookRefused("the webhook's body is not a JSON object with a type")
        return [CustomerChanged(_customer_of(told))] if told["type"] in CHANGES else []

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        if self.dormant is not None:
            return [f"{self.dormant}, so Drawdown does not send to Autumn"]
        try:
            listed = await self._account.read()
        except Unreadable as trouble:
            key, address = (self._settings.variable(setting) for setting in ("secret_key", "url"))
            again = f"then run `drawdown provider check {self.name}` again"
            return [f"{trouble}. Check {key} and the address in {address}, {again}"]
        report = CheckReport(self._settings, listed)
        if wire.refuses_body_key(await self._send("track", wire.CHECK_OF_KEY, wire.header_key("drawdown-check"))):
            report.lines.append(
                "Autumn refuses idempotency_key in the body of a charge. Drawdown sends it only in the header, which "
                "also prevents double charges. Check for a newer version of Drawdown"
            )
        report.lines += feature_lines(self._settings, listed, features)
        for customer_id in dict.fromkeys(customer_ids):
            try:
                report.customer(customer_id, await self._customer(customer_id), features)
            except Unreadable as trouble:
                report.lines.append(f"customer {customer_id}: {trouble}")
        return report.lines

    async def _ask(self, route: str, question: Mapping[str, object]) -> Mapping[str, object]:
        """Send a read, and return the object of the response.

        Errors: Unreadable, unless the response is a 200 with an object.
        """
        if self.dormant is not None:
            raise Unreadable(self.dormant)
        result = await self._send(route, question)
        if not isinstance(result, Answer):
            raise Unreadable(f"{route}: {result.reason}")
        body = wire.parse(result.body) if result.status == 200 else None
        if body is None:
            raise _unreadable(route, result)
        return body

    async def _send(self, route: str, body: Mapping[str, object], header_key: str | None = None) -> HttpResult:
        url = f"{self._settings.url}/v1/{route}"
        headers = {
            "authorization": f"Bearer {self._settings.secret_key}",
            "content-type": "application/json",
            "accept": "application/json",
            "x-api-version": wire.VERSION,
        }
        text = _JSON.encode(body).encode()
        if header_key is not None:
            charge = headers | {"idempotency-key": header_key}
            return await self._http.send(Call("POST", url, charge, text, most_bytes=PUSH_ANSWER_BYTES))
        return await self._http.send(Call("POST", url, headers, text, READ_TIMEOUT_S))


def _unreadable(route: str, answer: Answer) -> Unreadable:
    said = wire.read_said(answer)
    trouble = wire.access_trouble(said)
    if trouble is not None:
        # Do not set `status` and `their_code` of the error, because a setting is wrong, and not the customer or the
        # push.
        return Unreadable(trouble)
    return Unreadable(f"{route}: {said}", said.code, answer.status)


def _customer_of(told: Mapping[str, object]) -> str:
    """Return `data.customer_id`, or `data.customer.id` in the older kinds of webhooks."""
    data = told.get("data")
    if isinstance(data, dict):
        customer = data.get("customer")
        for found in (data.get("customer_id"), customer.get("id") if isinstance(customer, dict) else None):
            if isinstance(found, str) and found:
                return found
    raise WebhookRefused(f"the webhook {told['type']} does not name a customer")


def build(setup: Setup) -> AutumnProvider:
    """Build the provider. The package's entry point names this function.

    Errors: UsageError for an invalid setting.
    """
    return AutumnProvider(setup, autumn_settings.read(setup))
