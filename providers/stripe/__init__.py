"""Stripe's billing meters as a billing provider.

A push is one meter event, sent by API v1 or by the stream of v2.

Guarantee: the identifier of a meter event is the push's key, so a push that is sent several times within 24 hours is
charged once. If Stripe did not state an outcome, it is unknown, never guessed. The worker retries, waits and limits
rates by the capabilities. Sources: docs.stripe.com (billing/meter-event, meter-event-summary, rate-limits,
idempotent_requests, error-low-level, webhooks/signature) and the stripe-python package. This package was not tried
against Stripe itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import entries, wallet
from drawdown.providers.protocol import (
    Absent,
    Cancelled,
    CannotTell,
    CustomerRead,
    CustomerState,
    Drawn,
    FoundPush,
    LookupResult,
    Notice,
    Outcome,
    PushRequest,
    ReadFailed,
    Rejected,
    RetryAt,
    Setup,
    Totals,
)
from drawdown.providers.stripe import check as stripe_check
from drawdown.providers.stripe import meters as adjustments
from drawdown.providers.stripe import webhooks
from drawdown.providers.stripe.meters import Meter, Meters
from drawdown.providers.stripe.settings import AHEAD_MS, OLDEST_MS, capabilities, read_settings
from drawdown.providers.stripe.stream import NoSession, Stream
from drawdown.providers.stripe.wire import MAX_RETRY_MS, backoff_ms, get, meter_event, never_sent, outcome, path_of
from drawdown.schema.database import read
from drawdown.schema.sql import queries
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import MINUTE_MS, OWN_MINUTES, WINDOW_MS

SQL = queries(__file__)

DORMANT: Final = "DRAWDOWN_STRIPE_SECRET_KEY is not set"


class StripeProvider:
    """A provider that bills by Stripe's meter events."""

    def __init__(self, setup: Setup) -> None:
        """Read the settings. Errors: UsageError for an invalid setting."""
        self.name = setup.name
        self._settings = read_settings(setup.settings)
        self.capabilities = capabilities(self._settings)
        self.dormant = None if self._settings.secret_key else DORMANT
        self._http = setup.http
        self._clock = setup.clock
        self._engine = setup.engine
        self._meters = Meters(self._settings, setup.http, setup.clock)
        self._stream = Stream(self._settings, setup.http, setup.clock)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        if self.dormant:
            return [RetryAt(self._clock.now_ms() + MAX_RETRY_MS, self.dormant, by_person=True) for _ in batch]
        why_not: list[Outcome | None] = [never_sent(self._settings, push) for push in batch]
        names = {self._event_name(push) for push, why in zip(batch, why_not, strict=True) if why is None}
        meters = {name: await self._meters.active(name) for name in sorted(names)}
        for place, push in enumerate(batch):
            why_not[place] = why_not[place] or self._unfit(push, meters[self._event_name(push)])
        sent = [push for push, why in zip(batch, why_not, strict=True) if why is None]
        came = iter(await self._send(sent) if sent else ())
        return [why or next(came) for why in why_not]

    async def _send(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        if self._settings.stream_url:
            return await self._stream.send(batch)
        return [await self._push(push) for push in batch]

    async def _push(self, push: PushRequest) -> Outcome:
        return outcome(await self._http.send(meter_event(self._settings, push)), push, self._clock.now_ms())

    def _event_name(self, push: PushRequest) -> str:
        return self._settings.meter_of(push.feature).event_name

    def _unfit(self, push: PushRequest, meters: Sequence[Meter] | ReadFailed) -> Outcome | None:
        """Return the outcome of a push that must not be sent to these meters.

        Return None if Drawdown can send the push. For a meter with a time window, Stripe accepts all events, but keeps
        only the newest in a window. So Drawdown rejects a push to such a meter. It also rejects a push that the stream
        would refuse after its response, because Stripe reports only samples of such refusals.
        """
        now_ms = self._clock.now_ms()
        if isinstance(meters, ReadFailed) and not self._settings.stream_url:
            # The key may lack the right to read meters. v1 refuses an unfit push, except to a meter with a window.
            return None
        if isinstance(meters, ReadFailed):
            at_ms, why = now_ms + backoff_ms(push.attempt), f"its meter cannot be looked up: {meters.reason}"
            return RetryAt(at_ms, why, too_many=meters.too_many)
        windowed = next((meter for meter in meters if meter.window), None)
        if windowed is not None:
            return Rejected(
                f"not sent: the meter {windowed.id} ({windowed.event_name}) keeps only the newest event of each "
                f"{windowed.window}. Archive it, and create a meter without event_time_window"
            )
        if not self._settings.stream_url:
            return None  # v1 refuses the remaining cases itself
        if not meters:
            return Rejected(
                f"Stripe does not have an active meter with event name {self._event_name(push)}. Create it at Stripe"
            )
        if push.ts > now_ms + AHEAD_MS:
            return RetryAt(
                min(push.ts - AHEAD_MS, now_ms + MAX_RETRY_MS), "the push is dated further ahead than Stripe accepts"
            )
        if push.ts < now_ms - OLDEST_MS:
            return Rejected("the push is dated further back than Stripe accepts")
        return None

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        """Return the states of customers.

        Stripe never stops a customer. If a customer has a prepaid wallet in the embedded ledger, the wallet can halt
        it.
        """
        found = read(self._engine, partial(_wallets, customer_ids=customer_ids, now_ms=self._clock.now_ms()))
        return {customer_id: found.get(customer_id, CustomerState(None, None, None)) for customer_id in customer_ids}

    async def lookup(self, request: PushRequest) -> LookupResult:
        """Look up a push by the sum of the minute that it is dated in.

        Each of a window's revisions 0 to 3 has its own minute. Later revisions share a minute, so the result is
        CannotTell.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        name = self._settings.meter_of(request.feature)
        meters = await self._meters.named(name.event_name)
        if isinstance(meters, ReadFailed):
            return meters
        if not meters:
            # The key may belong to another account, so "no meter" must not become "not charged".
            return CannotTell(f"Stripe does not have a meter with event name {name.event_name}")
        minute = request.ts - request.ts % MINUTE_MS
        units = await self._meters.summed(meters, request.customer_id, minute, minute + MINUTE_MS)
        return _judge_units(request, units, name.unit) if isinstance(units, Decimal) else units

    async def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        if self.dormant:
            return ReadFailed(self.dormant)
        return adjustments.cancelled(await self._http.send(adjustments.adjustment(self._settings, request)), request)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        """Return a customer's totals by feature, in base units.

        The events are dated in [from_ms, to_ms), in whole minutes. The totals include every meter that sums, if its
        event name can be a feature. An account may hold meters that are not Drawdown's.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        if from_ms % MINUTE_MS or to_ms % MINUTE_MS:
            return ReadFailed("Stripe sums up whole minutes only")
        found = await self._meters.all()
        if isinstance(found, ReadFailed):
            return found
        totals = await self._totals(found, customer_id, from_ms, to_ms)
        if not totals or (isinstance(totals, ReadFailed) and not totals.too_many):
            # Stripe accepts events of a deleted customer, but does not count them, so a retry would be lost too.
            answer = await self._http.send(get(self._settings, path_of("v1", "customers", customer_id)))
            if (why := stripe_check.explain_unbilled(answer)) is not None:
                return ReadFailed(f"{NEEDS_YOU}{why}")
        return totals

    async def _totals(
        self, found: Sequence[Meter], customer_id: str, from_ms: int, to_ms: int
    ) -> dict[str, int] | ReadFailed:
        totals: dict[str, int] = {}
        for feature, meters in self._by_feature(found).items():
            units = await self._meters.summed(meters, customer_id, from_ms, to_ms)
            if not isinstance(units, Decimal):
                return units if isinstance(units, ReadFailed) else ReadFailed(units.reason)
            if units != int(units):
                return ReadFailed(
                    f"{feature}: {units} is not a whole number: another program sends fractions to its meter"
                )
            if units:
                totals[feature] = int(units) * self._settings.meter_of(feature).unit
        return totals

    def _by_feature(self, found: Sequence[Meter]) -> Mapping[str, list[Meter]]:
        meters: dict[str, list[Meter]] = {}
        for meter in found:
            feature = self._settings.feature_of(meter.event_name)
            # A meter that does not sum is another program's. If the settings name its feature, keep it, so that its
            # totals fail.
            if feature is not None and (meter.formula == "sum" or feature in self._settings.meters):
                meters.setdefault(feature, []).append(meter)
        return meters

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn]:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice] | ReadFailed:
        return await webhooks.notices(self._settings, self._http, headers, body, now_ms)

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        if self.dormant:
            return [f"{self.dormant}, so Drawdown does not send to Stripe"]
        lines = await stripe_check.check(self._settings, self._http, self._meters, features, customer_ids)
        session = await self._stream.session() if self._settings.stream_url else None
        return [*lines, f"DRAWDOWN_STRIPE_STREAM_URL: {session.why}"] if isinstance(session, NoSession) else lines


def _judge_units(request: PushRequest, units: Decimal, unit: int) -> LookupResult:
    """Return the result of a lookup, by the units of the minute.

    Absent: the minute has no units. FoundPush: the units are the quantity that was sent. CannotTell: they differ, or
    several revisions may share the minute.
    """
    figures = f"units of that minute: {units.normalize():f} at Stripe, {request.quantity // unit} sent"
    if request.ts % WINDOW_MS >= OWN_MINUTES * MINUTE_MS:
        return CannotTell(f"several revisions may share the minute of the push: {figures}", may_have=units != 0)
    if units == 0:
        return Absent()
    if units * unit == request.quantity:
        return FoundPush(request.quantity)
    whole = units == int(units)
    holds = int(units) * unit if whole else None
    return CannotTell(f"the sum differs from the sent quantity: {figures}", holds, may_have=True)


def _wallets(connection: sa.Connection, *, customer_ids: Sequence[str], now_ms: int) -> Mapping[str, CustomerState]:
    """Return the states of customers that have an account in the ledger.

    `read_ahead` returns an empty account for any customer, and a plan alone opens an account. So only a customer who
    was once granted credit is prepaid, and has a balance to spend.
    """
    values = {"customers": [{"id": customer_id} for customer_id in customer_ids], "from_account": entries.SOURCE}
    prepaid = {str(row.id): bool(row.is_granted) for row in SQL.run(connection, "accounts", values)}
    wallets = wallet.read_ahead(connection, list(prepaid), now_ms)
    return {
        customer_id: CustomerState(
            found.payable_micro if prepaid[customer_id] else None, found.plan, found.max_concurrent
        )
        for customer_id, found in wallets.items()
    }


def build(setup: Setup) -> StripeProvider:
    """Build the provider. The package's entry point names this function.

    Errors: UsageError.
    """
    return StripeProvider(setup)
