"""Autumn (useautumn.com, hosted or one's own server) as a billing provider.

Guarantee: one HTTP call a charge, nothing repeated and nothing waited for. An outcome that an answer does not prove is
not reported. A duplicate is a claim, not proof, so it is looked up. Balances and events are read back every night,
because a 200 of Autumn's is not durable and its key store fails open. Facts: observed on a running server, August 2026.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from drawdown.providers.autumn import (
    customers as autumn_customers,
)
from drawdown.providers.autumn import (
    events as autumn_events,
)
from drawdown.providers.autumn import (
    settings as autumn_settings,
)
from drawdown.providers.autumn import (
    svix,
    wire,
)
from drawdown.providers.autumn.check import CheckReport, feature_lines, read_features
from drawdown.providers.autumn.customers import AutumnCustomer, TooMany, Unreadable
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.http import PUSH_ANSWER_BYTES, READ_TIMEOUT_S, Answer, Call, HttpResult
from drawdown.providers.protocol import (
    Accepted,
    CannotTell,
    Capabilities,
    CustomerChanged,
    CustomerRead,
    Drawn,
    Left,
    LookupResult,
    NoCustomer,
    Notice,
    Outcome,
    PushRequest,
    ReadFailed,
    RetryAt,
    Setup,
    Totals,
    WebhookRefused,
)
from drawdown.schema.clock import Clock
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
"""Webhooks after which a customer is read again; others are taken and ignored."""


def capabilities(settings: AutumnSettings) -> Capabilities:
    """What Autumn can do. The batch call is not used (batch_size 1): it answers 200 whatever became of its items and
    drops duplicates silently, so it proves nothing."""
    return Capabilities(
        batch_size=1,
        in_flight=256,
        calls_per_s=settings.calls_per_s,
        # Autumn's own words, in the header of each answer: `ratelimit-policy: 10000;w=1` for customers.get, and 5 for
        # one customer's events (recorded). What is refused is asked for once more, and read again later.
        reads_per_s=10_000,
        lookups_per_s=4,
        key_retention_ms=settings.key_retention_ms,
        # Killed between claim and deduction: 409 from then on, and never applied (recorded).
        duplicate_proves_delivery=False,
        lookup_lag_ms=60 * SECOND_MS,
        lookup_span_ms=DAY_MS,
        # A queued charge waits as long as the store it needs is down; its key bounds how late it can still be ours.
        applied_within_ms=settings.key_retention_ms,
        negatives=True,
        totals_lag_ms=5 * MINUTE_MS,
        drawn=True,
        max_quantity=wire.MAX_QUANTITY,
        webhook_headers=svix.SIGNATURE_HEADERS,
    )


class AutumnProvider:
    """Bills one Autumn account."""

    def __init__(self, setup: Setup, settings: AutumnSettings) -> None:
        self.name = setup.name
        self.capabilities = capabilities(settings)
        self.dormant = None if settings.secret_key else f"{settings.variable('secret_key')} is not set"
        self._settings = settings
        self._http = setup.http
        self._clock: Clock = setup.clock
        self._consumable: dict[str, bool] = {}
        """By feature, as the account's list says; it never changes for a feature."""
        self._list_again_ms = 0
        """Until then the list of features is not asked for on account of a charge."""

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [await self._charge(request) for request in batch]

    async def _charge(self, request: PushRequest) -> Outcome:
        refused = wire.unsendable(request)
        if refused is not None:
            return refused
        if self.dormant is not None:
            return RetryAt(self._clock.now_ms() + wire.REFUSED_MS, f"not sent: {self.dormant}")
        result = await self._send("track", wire.track(request))
        outcome = wire.outcome(request, result, self._clock.now_ms())
        if isinstance(outcome, Accepted) and isinstance(result, Answer):
            return Accepted(await self._left(result))
        return outcome

    async def _left(self, charged: Answer) -> Left | None:
        """What the answer to a charge says is left."""
        body = wire.parse(charged.body)
        if body is None:
            return None
        balance = body.get("balance")
        if self._settings.balance_feature is None and isinstance(balance, dict):
            await self._know(str(balance.get("feature_id")))
        return autumn_customers.left(body, self._settings, self._consumable)

    async def _know(self, feature: str) -> None:
        """Have the features listed if this one is unknown: not for each of many charges at once, nor soon again where
        the list cannot be read. What is left is not told meanwhile."""
        now = self._clock.now_ms()
        if feature in self._consumable or now < self._list_again_ms:
            return
        self._list_again_ms = now + MINUTE_MS
        try:
            await self._learn_features({feature})
        except Unreadable:
            return  # the charge was made all the same, and the customer is read

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return {customer_id: await self._state(customer_id) for customer_id in customer_ids}

    async def _state(self, customer_id: str) -> CustomerRead:
        try:
            customer = await self._customer(customer_id)
            await self._learn_features(
                {found.feature for found in autumn_customers.candidates(customer, self._settings)}
            )
        except Unreadable as trouble:
            return NoCustomer() if trouble.their_code == "customer_not_found" else _failed(trouble)
        return autumn_customers.state(customer, self._settings, self._consumable)

    async def _customer(self, customer_id: str) -> AutumnCustomer:
        if not autumn_settings.ID.fullmatch(customer_id):
            raise Unreadable(f"Autumn takes no customer id like {customer_id!r}", "customer_not_found")
        told = await self._ask("customers.get", {"customer_id": customer_id})
        if told.get("id", customer_id) != customer_id:
            raise Unreadable("Autumn's answer is about another customer")
        return autumn_customers.read_customer(told)

    async def _learn_features(self, of_balances: set[str]) -> None:
        """A balance does not say whether it is used up or only held (seats): the list of features does, asked once."""
        if self._settings.balance_feature is None and of_balances - self._consumable.keys():
            listed = read_features(await self._ask("features.list", {}))
            self._consumable.update({feature.name: feature.consumable for feature in listed.values()})
            self._consumable.update(dict.fromkeys(of_balances - self._consumable.keys(), True))

    async def lookup(self, request: PushRequest) -> LookupResult:
        return (await self.lookup_many([request]))[0]

    async def lookup_many(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        """By one list of events; where that is too long, or holds an event that cannot be read, by halves of it."""
        dates = sorted({request.ts for request in requests})
        try:
            items = await self._events(requests[0].customer_id, dates[0], dates[-1] + 1)
        except Unreadable as trouble:
            if isinstance(trouble, TooMany) and len(dates) > 1:
                return await self._in_halves(requests)
            refused = trouble.status in (400, 404) and trouble.their_code is not None
            said = CannotTell(f"Autumn will not list this customer's events: {trouble}")
            return [said if refused else _failed(trouble)] * len(requests)
        try:
            events = autumn_events.by_key(items)
        except Unreadable as trouble:
            if len(dates) > 1:
                return await self._in_halves(requests)
            return [CannotTell(str(trouble))] * len(requests)
        return [autumn_events.find(request, events) for request in requests]

    async def _in_halves(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        dates = sorted({request.ts for request in requests})
        middle = dates[len(dates) // 2]
        found: dict[str, LookupResult] = {}
        earlier = [request for request in requests if request.ts < middle]
        for part in (earlier, [request for request in requests if request.ts >= middle]):
            found.update(zip((request.key for request in part), await self.lookup_many(part), strict=True))
        return [found[request.key] for request in requests]

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        try:
            items = await self._events(customer_id, from_ms, to_ms)
            return autumn_events.totals(customer_id, items, from_ms, to_ms)
        except Unreadable as trouble:
            return _failed(trouble)

    async def _events(self, customer_id: str, from_ms: int, to_ms: int) -> list[object]:
        """All events of a range, page by page. Errors: Unreadable; a part of them is never given for the whole."""
        asked = autumn_events.question(customer_id, from_ms, to_ms)
        items: list[object] = []
        rest: Mapping[str, object] | None = {}
        for _page in range(autumn_events.MAX_PAGES):
            before = rest
            page = autumn_events.read_page(await self._ask("events.list", {**asked, **(rest or {})}), len(items))
            items.extend(page.items)
            rest = page.rest
            if rest is None:
                return items
            if rest == before:
                raise Unreadable("Autumn's list of events does not move on")
        raise TooMany(f"more than {autumn_events.MAX_PAGES * autumn_events.PAGE} events: ask for a shorter range")

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        try:
            return autumn_customers.drawn(await self._customer(customer_id), self._settings)
        except Unreadable as trouble:
            return _failed(trouble)

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        if not self._settings.webhook_secrets:
            raise WebhookRefused(f"{self._settings.variable('webhook_secrets')} is not set")
        text = svix.verify(headers, body, self._settings.webhook_secrets, now_ms)
        told = wire.parse(text.encode())
        if told is None or not isinstance(told.get("type"), str):
            raise WebhookRefused("the webhook's body is no JSON object with a type")
        return [CustomerChanged(svix.customer_of(told))] if told["type"] in CHANGES else []

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        if self.dormant is not None:
            return [f"{self.dormant}: nothing is sent to Autumn"]
        try:
            listed = read_features(await self._ask("features.list", {}))
        except Unreadable as trouble:
            return [f"{trouble} ({self._settings.variable('secret_key')}, {self._settings.variable('url')})"]
        report = CheckReport(self._settings, listed)
        report.lines += feature_lines(self._settings, listed, features)
        for customer_id in dict.fromkeys(customer_ids):
            try:
                report.customer(customer_id, await self._customer(customer_id), features)
            except Unreadable as trouble:
                report.lines.append(f"customer {customer_id}: {trouble}")
        return report.lines

    async def _ask(self, route: str, question: Mapping[str, object]) -> Mapping[str, object]:
        """A read. Errors: Unreadable, for everything but a 200 with an object."""
        if self.dormant is not None:
            raise Unreadable(self.dormant)
        result = await self._send(route, question)
        if not isinstance(result, Answer):
            raise Unreadable(f"{route}: {result.reason}")
        body = wire.parse(result.body) if result.status == 200 else None
        if body is None:
            raise _unreadable(route, result)
        return body

    async def _send(self, route: str, body: Mapping[str, object]) -> HttpResult:
        url = f"{self._settings.url}/v1/{route}"
        headers = {
            "authorization": f"Bearer {self._settings.secret_key}",
            "content-type": "application/json",
            "accept": "application/json",
            "x-api-version": wire.VERSION,
        }
        text = _JSON.encode(body).encode()
        if route == "track":
            return await self._http.send(Call("POST", url, headers, text, most_bytes=PUSH_ANSWER_BYTES))
        return await self._http.send(Call("POST", url, headers, text, READ_TIMEOUT_S))


def _unreadable(route: str, answer: Answer) -> Unreadable:
    said = wire.read_said(answer)
    trouble = wire.access_trouble(said)
    if trouble is not None:
        # No status: mending the setting mends it, so it is not the customer's or the push's.
        return Unreadable(trouble)
    return Unreadable(f"{route}: {said}", said.code, answer.status)


def _failed(trouble: Unreadable) -> ReadFailed:
    return ReadFailed(str(trouble), too_many=trouble.status == 429)


def build(setup: Setup) -> AutumnProvider:
    """The entry point. Errors: UsageError for a setting that cannot be used."""
    return AutumnProvider(setup, autumn_settings.read(setup))
