"""The providers behind HTTP: the real adapters, on emulated services, with a network that holds requests up.

Guarantee: what a service truly charged is read from the emulator, whatever was answered; all chance comes from the
seed, and a service is only ever told the true time.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import ceil
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import sqlalchemy as sa
from standardwebhooks import Webhook

from drawdown.providers.autumn import build as build_autumn
from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import Provider, Setup
from drawdown.providers.stripe import build as build_stripe
from drawdown.schema.clock import Clock
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.server.services import NobodyThere
from tests.emulators import stripe_stream
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.autumn_losses import Charge
from tests.emulators.stripe import StripeEmulator
from tests.simulation.faults import Faults
from tests.simulation.pooled import CREDITS, Pooled, Span
from tests.simulation.providers import AUTUMN, STRIPE, Billed
from tests.simulation.stepping import Time

HELD_UP_MS: Final = 15 * MINUTE_MS
FEATURES: Final = ("compute", "compute_1gb", "compute_2gb", "compute_3gb", "compute_4gb")
METERS: Final = {"compute": ("gb_seconds", 1024), "compute_1gb": ("minutes_1gb", 60)}
"""Event name and unit, where they are not the feature's own name and one."""
BY_EVENT: Final = {METERS.get(one, (one, 1))[0]: (one, METERS.get(one, (one, 1))[1]) for one in FEATURES}
MANY: Final = 10**9
WEBHOOK_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Network:
    """The `Http` of all providers: straight to the emulators, or held up on the way, or refused."""

    faults: Faults
    time: Time
    down: set[str]
    breaches: list[str]
    emulators: dict[str, AutumnEmulator | StripeEmulator] = field(default_factory=dict)
    pooled: dict[str, Pooled] = field(default_factory=dict)
    """The credits of accounts that bill in them."""
    flying: list[tuple[int, str, Call]] = field(default_factory=list)
    sent: dict[tuple[str, str], bytes] = field(default_factory=dict)
    calls: int = 0
    of_lost_history: bool = False
    """Whether a process sends what it claimed before the database was restored."""

    async def send(self, call: Call) -> HttpResult:
        self.calls += 1
        name = (urlsplit(call.url).hostname or "").removesuffix(".test")
        parts = _charged_by(name, call)
        charges = bool(parts)
        for key, body in parts.items() if not self.of_lost_history else ():
            if self.sent.setdefault((name, key), body) != body:
                self.breaches.append(f"P2: {key} was sent to {name} with other bytes")
        if name in self.down:
            self.faults.note("provider_down")
            return NotSent("connection refused")
        if charges and self.faults.strikes("held_up"):
            self.flying.append((self.time.now + self.faults.rng.randrange(1, HELD_UP_MS), name, call))
            return NoAnswer("timed out")
        emulator = self.emulators[name]
        pooled = self.pooled.get(name) if charges else None
        if pooled is not None:
            pooled.sent(self.time.now, before=True)
        before = {key: emulator.charged_under(key) for key in parts}
        answer = emulator.handle(call, self.time.now)
        after = {key: emulator.charged_under(key) for key in parts}
        # A proxy that repeats a request. What proves that nothing was done is an answer to all of it.
        if charges and any(after[key] is not None for key in parts) and self.faults.strikes("delivered_twice"):
            refused = len(parts) > 1 and before == after and isinstance(answer, Answer) and 400 <= answer.status < 500
            if not refused:  # as a whole, beside events that were charged before
                self._repeat(name, call)
        if pooled is not None:
            pooled.sent(self.time.now, before=False)
        return answer

    def _repeat(self, name: str, call: Call) -> None:
        """Not modelled: a proxy that repeats requests, before an account whose key store fails open. It draws twice on
        one attempt of ours, which only a person can tell from somebody else's use of the balance."""
        if not self.emulators[name].faults.rates.get("key_store_refuses"):
            self.emulators[name].handle(call, self.time.now)

    def lose(self, known: set[str]) -> None:
        """Keys that nobody knows of any more may stand for other bytes."""
        for place in [one for one in self.sent if one[1] not in known]:
            del self.sent[place]

    def deliver(self) -> None:
        """Let what was held up arrive, each at its own time."""
        due = sorted((one for one in self.flying if one[0] <= self.time.now), key=lambda one: one[0])
        self.flying = [one for one in self.flying if one[0] > self.time.now]
        for at_ms, name, call in due:
            self.emulators[name].handle(call, at_ms)

    async def close(self) -> None:
        """There is nothing to close."""


def _charged_by(name: str, call: Call) -> dict[str, bytes]:
    """What a call charges: by key, the bytes that say it. Of a batch each event stands for itself."""
    if call.url.endswith("/v1/track"):
        return {str(json.loads(call.body)["idempotency_key"]): call.body}
    if call.url.endswith("/v1/billing/meter_events"):
        return {dict(parse_qsl(call.body.decode()))["identifier"]: call.body}
    if call.url.endswith(stripe_stream.EVENTS):
        events = json.loads(call.body)["events"]
        return {one["identifier"]: json.dumps(one, sort_keys=True).encode() for one in events}
    return {}


class Autumn:
    """An account at Autumn, and what is true there."""

    unit_of: Callable[[str], int]

    def __init__(self, faults: Faults, network: Network, clock: Clock, engine: sa.Engine) -> None:
        hours = faults.rng.choice((1, 24, 24))
        self.retention_ms = hours * 60 * MINUTE_MS
        plan = faults.plan(AUTUMN)
        # Some accounts refuse a customer's whole burst.
        self.emulator = AutumnEmulator(faults=plan, lists_per_s=MANY, track_per_s=faults.rng.choice((MANY, MANY, 3)))
        self.emulator.account.key_retention_ms = self.retention_ms
        network.emulators[AUTUMN] = self.emulator
        given = {
            "secret_key": SECRET_KEY,
            "url": "https://autumn.test",
            "key_retention_h": str(hours),
            "webhook_secrets": WEBHOOK_SECRET,
        }
        self.untold: list[bytes] = []
        self.tellings = 0
        self.stood_still: list[tuple[int, int]] = []
        """When the list of events showed nothing new."""
        self.provider: Provider = build_autumn(Setup(AUTUMN, given, clock, network, engine))
        self.unasked: Provider = build_autumn(Setup(AUTUMN, given, clock, NobodyThere(), engine))
        for feature in FEATURES:
            self.emulator.account.add_feature(feature)
        # Half of all worlds: four in seven have Autumn. Not those where nothing fails by chance.
        apart = random.Random(f"credits {faults.rng.getstate()[1][:8]}")
        self.pooled: Pooled | None = None
        if faults.intensity and apart.random() < 7 / 8:
            self.bill_in_credits(Pooled(self.emulator, faults, apart, engine, FEATURES), network)

    def bill_in_credits(self, pooled: Pooled, network: Network) -> None:
        """From now on one balance pays for all features."""
        self.pooled = network.pooled[AUTUMN] = pooled

    def meet(self, org: str, faults: Faults) -> None:
        """Make the customers of an organisation there, some without one of their balances, a few not at all."""
        rng, account = faults.rng, self.emulator.account
        for customer in (org, f"c-{org}"):
            if rng.random() < 0.05:
                continue
            account.add_customer(customer, 0)
            for feature in FEATURES:
                much = rng.choice((0, 4_000, 10_000_000)) if rng.random() < 0.95 else None
                if much is not None and self.pooled is None:
                    account.grant(customer, feature, much, 0)
            if self.pooled is not None:
                self.pooled.meet(customer, now_ms=0)

    def fix(self, orgs: Sequence[str], now_ms: int) -> None:
        """Nothing goes wrong any more, and what was missing is made. No burst is refused: time stands still in a tick,
        so one would send three pushes and no more, where production waits a second and goes on (`engine.lines`)."""
        self.emulator.faults.rates = {}
        self.emulator.list_stands_still = (0, 0)
        self.emulator.track_per_s = MANY
        account = self.emulator.account
        for customer in (name for org in orgs for name in (org, f"c-{org}")):
            if customer not in account.customers:
                account.add_customer(customer, now_ms)
            for feature in FEATURES if self.pooled is None else ():
                if feature not in account.customers[customer].grants:
                    account.grant(customer, feature, 0, now_ms)
            if self.pooled is not None:
                self.pooled.fix(customer, now_ms)

    def tell(self, customer: str) -> None:
        """Something about a customer changed."""
        kind = self.emulator.faults.rng.choice(("billing.updated", "balances.limit_reached"))
        self.tellings += 1
        told = {"id": f"msg_{self.tellings}", "type": kind, "data": {"customer_id": customer}}
        self.untold.append(json.dumps(told).encode())

    def webhooks(self, now_ms: int) -> list[bytes]:
        """What is due to be told, once."""
        told, self.untold = self.untold, []
        return told

    def about(self, body: bytes) -> tuple[str, str | None]:
        """A webhook's id, and the customer it names."""
        told = json.loads(body)
        return str(told["id"]), str(told["data"]["customer_id"])

    def signed(self, body: bytes, now_ms: int, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
        moment, event = datetime.fromtimestamp(now_ms // 1000, UTC), self.about(body)[0]
        signature = Webhook(secret).sign(event, moment, body.decode())
        return {"svix-id": event, "svix-timestamp": str(now_ms // 1000), "svix-signature": signature}

    def billed(self, now_ms: int) -> Billed:
        self.emulator.work_off(now_ms)
        sums: Billed = defaultdict(int)
        totals: dict[tuple[str, str], int] = defaultdict(int)
        for (customer, feature, ts), value in self.emulator.charged_by().items():
            sums[(customer, feature, ts - ts % WINDOW_MS)] += int(value)
            totals[(customer, feature)] += int(value)
        if self.pooled is None:
            assert all(self.drawn(*place) == total for place, total in totals.items()), "its own balance says otherwise"
        else:
            assert all(self.pooled.agrees(customer) for customer, _ in totals), "its own balance says otherwise"
        return sums

    def keys(self) -> dict[str, int]:
        return {key: int(value) for key, value in self.emulator.account.by_key.items()}

    def taken(self) -> set[str]:
        """Keys that were answered with a success, and are charged nothing all the same."""
        return {str(one.key) for one in self.emulator.lost}

    def worth(self, feature: str, sent: int, key: str, from_ms: int, to_ms: int) -> Span:
        """The least and the most that a push comes to in the balance that pays for it, if it was charged once between
        two moments: base units, or grains of a credit."""
        if self.pooled is None:
            return sent, sent
        if self.emulator.account.by_key.get(key) == sent:
            return self.pooled.under(key), self.pooled.under(key)
        return self.pooled.spans(feature, sent, from_ms, to_ms)

    def place(self, customer: str, feature: str) -> tuple[str, str]:
        """The balance that pays."""
        return (customer, feature if self.pooled is None else CREDITS)

    def _of(self, one: Charge) -> int:
        return int(one.value) if self.pooled is None else self.pooled.of(one)

    def _widened(self, places: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Where one balance pays for all, what holds for one of a customer's features holds for each."""
        if self.pooled is None:
            return set(places)
        return {(customer, feature) for customer, _ in places for feature in (*FEATURES, CREDITS)}

    def lost_of(self, customer: str, feature: str) -> int:
        """What was to be drawn, was answered with a success, and never was; and what was given back more than once, by
        a key store that failed open: of a balance that is as good as lost."""
        account = self.emulator.account
        gone = [one for one in (*account.lost, *account.undrawn) if one.value > 0]
        gone += [one for one in account.doubles if one.value < 0]
        return sum(abs(self._of(one)) for one in gone if self.place(one.customer, one.feature) == (customer, feature))

    def doubled_places(self) -> set[tuple[str, str]]:
        """Customers' features that were drawn on twice under one key: the balance cannot tell for which push."""
        return self._widened((one.customer, one.feature) for one in self.emulator.doubles)

    def lost_places(self) -> set[tuple[str, str]]:
        """Customers' features where a success charged nothing: beside the next charge without an event, the balance
        cannot tell of which push."""
        return self._widened((one.customer, one.feature) for one in self.emulator.account.lost)

    def not_given_back(self) -> dict[tuple[str, str], int]:
        """By customer and feature, how much was to be given back, was answered with a success, and never was: by as
        much the balance is drawn on too far."""
        account = self.emulator.account
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for key, one in {str(one.key): one for one in account.lost if one.value < 0}.items():
            sums[self.place(one.customer, one.feature)] += 0 if key in account.by_key else -self._of(one)
        return sums

    def forgotten(self) -> set[str]:
        """Keys of which an event, or a success, says that they were drawn (or given back), and the account lost it."""
        account = self.emulator.account
        return {str(one.key) for one in (*account.undrawn, *account.lost)} - account.by_key.keys()

    def without_event(self) -> set[str]:
        """Keys that were drawn, or given back, and no event shows it."""
        return {str(one.key) for one in self.emulator.account.eventless}

    def doubled(self) -> set[str]:
        """Keys that a key store which failed open let through again."""
        return {str(one.key) for one in self.emulator.doubles}

    def loses_data(self) -> bool:
        """Whether this account charges without an event, and loses what it drew."""
        return bool(self.told_in_sum())

    def told_in_sum(self) -> set[tuple[str, str]]:
        """Customers' features of which events and balance say different things, for good or while the list of events
        stands still, or people changed the balance: which push of the same quantity it was nobody can tell."""
        account = self.emulator.account
        charges = {(one.customer, one.feature) for one in (*account.eventless, *account.undrawn)}
        spans = self.stood_still
        late = {
            (one.customer, one.feature)
            for one in (account.events if spans else ())
            if any(begins <= one.visible_at < ends for begins, ends in spans)
        }
        return self._widened(charges | late | account.changed.keys())

    def drawn(self, customer: str, feature: str) -> int:
        """What the emulator's own balance says was charged, but for what people changed of it; in credits, grains."""
        if self.pooled is not None:
            return self.pooled.drawn(customer)
        account = self.emulator.account
        known = account.customers.get(customer)
        grants = known.grants.get(feature, []) if known is not None else []
        spent = [one for one in known.spent if one.feature.name == feature] if known is not None else []
        used = sum(one.granted - one.balance for one in (*grants, *spent))
        return int(used + account.changed.get((customer, feature), 0))

    def given_back_again(self) -> Billed:
        """What was given back more than once, by customer and feature: neither events nor balances can show it."""
        sums: Billed = defaultdict(int)
        for one in self.emulator.doubles:
            if one.value < 0:
                sums[(*self.place(one.customer, one.feature), 0)] += self._of(one)
        return sums

    def refuses(self, customer: str) -> bool:
        """Whether some features are refused, and others are not: it is known only by their own balances."""
        if self.pooled is not None:
            return self.pooled.refuses(customer)
        left = [
            sum(max(0, one.balance) for one in of) for of in self.emulator.account.customers[customer].grants.values()
        ]
        return any(left) and not all(left)

    def balance(self, customer: str) -> int:
        grants = self.emulator.account.customers[customer].grants.values()
        return ceil(sum(max(0, one.balance) for of_feature in grants for one in of_feature))


class Stripe:
    """An account at Stripe, and what is true there."""

    retention_ms = 24 * 60 * MINUTE_MS

    def __init__(self, faults: Faults, network: Network, clock: Clock, engine: sa.Engine) -> None:
        self.emulator = StripeEmulator(faults=faults.plan(STRIPE))
        network.emulators[STRIPE] = self.emulator
        self.untold: list[str] = []
        meters = ",".join(f"{feature}={name}/{unit}" for feature, (name, unit) in METERS.items())
        given = {
            "secret_key": "sk_test_emulator",
            "url": "https://stripe.test",
            "webhook_secrets": "whsec_emulator",
            "meters": meters,
        }
        # Half of all worlds, but for those where nothing fails by chance; nothing is drawn for it, so that what else a
        # seed brings stays as it was.
        apart = random.Random(str(faults.rng.getstate()[1][:8]))
        if faults.intensity and apart.random() < 0.5:
            given["stream_url"] = "https://stripe.test"
        self.provider: Provider = build_stripe(Setup(STRIPE, given, clock, network, engine))
        can = self.provider.capabilities
        # Little is due at once here: a claim has several calls where one takes few.
        self.provider.capabilities = replace(can, batch_size=min(can.batch_size, apart.choice((2, 5, 100))))
        self.unasked: Provider = build_stripe(Setup(STRIPE, given, clock, NobodyThere(), engine))
        for name in BY_EVENT:
            self.emulator.add_meter(name).active = faults.rng.random() < 0.95

    def meet(self, org: str, faults: Faults) -> None:
        """Make the customer of an organisation there; a few are missing."""
        if faults.rng.random() < 0.95:
            self.emulator.add_customer(f"cus_{org}")

    def fix(self, orgs: Sequence[str], now_ms: int) -> None:
        self.emulator.faults.rates = {}
        self.emulator.add_customer(*(f"cus_{org}" for org in orgs))
        for meter in self.emulator.meters.values():
            meter.active = True

    def tell(self, customer: str) -> None:
        """Something about a customer changed."""
        self.untold.append(customer)

    def webhooks(self, now_ms: int) -> list[bytes]:
        """What is due to be told, once."""
        untold, self.untold = self.untold, []
        changed = [self.emulator.customer_webhook("customer.updated", one, now_ms) for one in untold]
        return [body for _, body in (*self.emulator.webhooks(now_ms), *changed)]

    def about(self, body: bytes) -> tuple[str, str | None]:
        """A webhook's id, and the customer it names; an error report names none."""
        told = json.loads(body)
        return str(told["id"]), told["data"]["object"]["id"] if told["type"].startswith("customer.") else None

    def signed(self, body: bytes, now_ms: int, secret: str | None = None) -> dict[str, str]:
        right = self.emulator.webhook_secret
        self.emulator.webhook_secret = secret or right
        headers, same = self.emulator.signed(json.loads(body), now_ms)
        self.emulator.webhook_secret = right
        assert same == body, "a webhook's body is what the emulator would write"
        return headers

    def billed(self, now_ms: int) -> Billed:
        sums: Billed = defaultdict(int)
        for (customer, event, stamp_s), units in self.emulator.charged_by().items():
            feature, unit = BY_EVENT[event]
            sums[(customer, feature, stamp_s * 1000 - stamp_s * 1000 % WINDOW_MS)] += units * unit
        return sums

    def worth(self, feature: str, sent: int, key: str, from_ms: int, to_ms: int) -> Span:
        return sent, sent

    def place(self, customer: str, feature: str) -> tuple[str, str]:
        return customer, feature

    def in_minute(self, customer: str, feature: str, ts: int) -> int:
        """What is charged in one minute, in base units."""
        found = self.emulator.charged_by().items()
        minute = ts // MINUTE_MS
        return sum(
            units * BY_EVENT[event][1]
            for (who, event, stamp_s), units in found
            if (who, BY_EVENT[event][0], stamp_s * 1000 // MINUTE_MS) == (customer, feature, minute)
        )

    def keys(self) -> dict[str, int]:
        """In units of the meters."""
        counted = self.emulator.events.counted
        return {key: int(sum(one.charge.value for one in events)) for key, events in counted.items() if events}

    def taken(self) -> set[str]:
        return {*self.emulator._taken, *self.emulator._streamed} - self.keys().keys()

    def forgotten(self) -> set[str]:
        return set()

    def loses_data(self) -> bool:
        return False

    def told_in_sum(self) -> set[tuple[str, str]]:
        return set()

    def doubled_places(self) -> set[tuple[str, str]]:
        return set()

    def lost_places(self) -> set[tuple[str, str]]:
        return set()

    def not_given_back(self) -> dict[tuple[str, str], int]:
        return {}

    def doubled(self) -> set[str]:
        return set()

    def given_back_again(self) -> Billed:
        return {}


Remote = Autumn | Stripe


def unit_at(provider: str, feature: str) -> int:
    """Base units in what a key is charged."""
    return METERS.get(feature, (feature, 1))[1] if provider == STRIPE else 1
