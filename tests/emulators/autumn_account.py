"""One account of the emulated Autumn: what is charged, what is remembered, what is still queued.

Guarantee: `truth` holds what was really deducted, whatever was answered and whatever the list of events shows.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from tests.emulators.autumn_list import Events
from tests.emulators.autumn_state import (
    ONE_OFF,
    Customer,
    Feature,
    Grant,
    Item,
    Json,
    Number,
    Plan,
    later,
    spread,
    subscription,
)

DAY_MS = 86_400_000
WINDOW_MS = 300_000
QUEUE_MS = 30_000
"""How long a queued charge waits before it is worked off (recorded)."""


class Insufficient(Exception):
    """`reject`, and the balance is too small."""


@dataclass(frozen=True)
class Track:
    """One charge as it was understood. `ts` None: dated when it is applied."""

    customer: str
    feature: Feature
    value: Number
    ts: int | None
    behaviour: str
    properties: Json
    body_key: str | None
    header_key: str | None

    @property
    def claims(self) -> list[str]:
        """Both namespaces: the body's keys are kept under a prefix, the header's bare."""
        body = [f"track:{self.body_key}"] if self.body_key else []
        return body + ([self.header_key] if self.header_key else [])


@dataclass(frozen=True)
class Charge:
    """A deduction, with what it takes to undo it."""

    customer: str
    feature: str
    ts: int
    value: Number
    key: str | None


@dataclass
class Account:
    """State and arithmetic; faults are its caller's."""

    env: str = "sandbox"
    list_lag_ms: int = 1_000
    key_retention_ms: int = DAY_MS
    features: dict[str, Feature] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    customers: dict[str, Customer] = field(default_factory=dict)
    events: Events = field(default_factory=Events)
    truth: dict[tuple[str, str, int], Number] = field(default_factory=dict)
    doubles: list[Charge] = field(default_factory=list)
    """Deductions of a key that was deducted before: the key store failed open."""
    lost: list[Charge] = field(default_factory=list)
    """Answered 200 and gone afterwards."""
    eventless: list[Charge] = field(default_factory=list)
    """Deducted, and no event shows it."""
    undrawn: list[Charge] = field(default_factory=list)
    """An event shows it, and the deduction is lost."""
    changed: dict[tuple[str, str], Number] = field(default_factory=dict)
    """What people changed of balances by hand, which reads as given back."""
    claims: dict[str, int] = field(default_factory=dict)
    """When each claimed key is forgotten."""
    queue: list[tuple[int, int, Track]] = field(default_factory=list)
    by_key: dict[str, Number] = field(default_factory=dict)
    """What was deducted under each key."""
    _event_keys: set[tuple[str, str, str]] = field(default_factory=set)
    _count: int = 0

    def next_name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count:027d}"

    # What is set up

    def add_feature(
        self,
        name: str,
        *,
        kind: str = "metered",
        consumable: bool = True,
        title: str | None = None,
        credit_schema: dict[str, Number] | None = None,
    ) -> Feature:
        self.features[name] = Feature(name, title or name, kind, consumable and kind != "boolean", credit_schema or {})
        return self.features[name]

    def add_plan(
        self, name: str, grants: dict[str, tuple[Number, str | None]], *, auto_enable: bool = False, now_ms: int = 0
    ) -> Plan:
        """`grants`: how much of each feature, and how often anew (None: once)."""
        items = [
            Item(self.features[one], self.next_name("ent"), amount, interval)
            for one, (amount, interval) in grants.items()
        ]
        self.plans[name] = Plan(name, name.title(), auto_enable, items, now_ms)
        return self.plans[name]

    def add_customer(self, name: str, now_ms: int, title: str | None = None, email: str | None = None) -> Customer:
        made = Customer(name, title, email, now_ms)
        self.customers[name] = made
        for plan in self.plans.values():
            if plan.auto_enable:
                self.attach(name, plan.name, now_ms)
        return made

    def attach(self, customer_id: str, plan_id: str, now_ms: int) -> None:
        """Give a plan to a customer, as a payment would."""
        customer, plan = self.customers[customer_id], self.plans[plan_id]
        customer.subscriptions.append(subscription(self.next_name("cus_prod"), plan, now_ms))
        for item in plan.items:
            if item.feature.kind == "boolean":
                told: Json = {"id": self.next_name("cus_ent"), "plan_id": plan_id, "expires_at": None}
                customer.flags[item.feature.name] = told | {"feature_id": item.feature.name}
            else:
                self.grant(
                    customer_id, item.feature.name, item.included, now_ms,
                    plan=plan_id, interval=item.interval, unlimited=item.unlimited,
                )  # fmt: skip

    def grant(
        self,
        customer_id: str,
        feature: str,
        amount: Number,
        now_ms: int,
        *,
        plan: str | None = None,
        interval: str | None = None,
        unlimited: bool = False,
        overage_allowed: bool = False,
    ) -> Grant:
        """Give a balance, apart from what plans gave."""
        resets_at = later(now_ms, interval) if interval and interval != ONE_OFF else None
        made = Grant(
            self.next_name("cus_ent"), self.features[feature], plan, amount, amount, interval, resets_at,
            unlimited, overage_allowed,
        )  # fmt: skip
        self.customers[customer_id].grants.setdefault(feature, []).append(made)
        return made

    # What people do to balances

    def add_to_balance(self, customer_id: str, feature: str, amount: Number) -> None:
        """Granted stays, remaining grows, usage falls; nothing tells (observed)."""
        grants = self.customers[customer_id].grants.get(feature, [])
        for one in grants[:1]:
            self._change(customer_id, one, one.balance + amount)

    def set_remaining(self, customer_id: str, feature: str, remaining: Number) -> None:
        """Usage becomes what was granted less this (observed)."""
        for one in self.customers[customer_id].grants.get(feature, [])[:1]:
            self._change(customer_id, one, remaining)

    def _change(self, customer_id: str, one: Grant, balance: Number) -> None:
        place = (customer_id, one.feature.name)
        self.changed[place] = self.changed.get(place, 0) + balance - one.balance
        one.balance = balance

    # What is charged

    def customer(self, name: str, now_ms: int) -> Customer | None:
        """A customer as of now: cycles that ended are begun anew."""
        found = self.customers.get(name)
        if found is not None:
            for grants in found.grants.values():
                for one in grants:
                    if one.resets_at is not None and one.resets_at <= now_ms:
                        one.renew(now_ms)
        return found

    def sources(self, customer: Customer, feature: Feature) -> tuple[list[Grant], Number]:
        """The balances a feature is drawn from, and how much of them a unit takes."""
        own = customer.grants.get(feature.name)
        if own:
            return own, 1
        for name, grants in customer.grants.items():
            cost = self.features[name].credit_schema.get(feature.name)
            if cost is not None:
                return grants, cost
        return [], 1

    def charge(self, track: Track, now_ms: int, *, fate: str = "") -> tuple[list[Grant], list[Json]]:
        """Deduct and write the event; the balances drawn from, and the deductions as they are told. `fate`: both are
        "gone" right afterwards, or there is "no event", or it was "not drawn".

        Errors: Insufficient; KeyError for an unknown customer."""
        customer = self.customer(track.customer, now_ms)
        if customer is None:
            raise KeyError(track.customer)
        grants, cost = self.sources(customer, track.feature)
        value = track.value * cost
        bounded = not any(one.unlimited or one.overage_allowed for one in grants)
        if track.behaviour == "reject" and bounded and value > sum(max(0, one.balance) for one in grants):
            raise Insufficient
        overflow = track.behaviour == "overflow" or not track.feature.consumable
        parts = spread(grants, value, overflow=overflow)
        deductions = [one.deduction(amount) for one, amount in parts]
        applied = sum(amount for _one, amount in parts)
        made = Charge(
            track.customer, track.feature.name, track.ts if track.ts is not None else now_ms,
            applied if cost == 1 else applied / cost, track.body_key or track.header_key,
        )  # fmt: skip
        if fate == "gone":
            self.lost.append(made)
            return grants, deductions
        if fate == "not drawn":
            self.undrawn.append(made)
        else:
            for one, amount in parts:
                one.balance -= amount
            self._remember(made)
        if fate == "no event":
            self.eventless.append(made)
        else:
            self.note(track, deductions, now_ms)
        return grants, deductions

    def _remember(self, made: Charge) -> None:
        if made.value:
            place = (made.customer, made.feature, made.ts)
            self.truth[place] = self.truth.get(place, 0) + made.value
            if made.key is not None:
                if made.key in self.by_key:
                    self.doubles.append(made)
                self.by_key[made.key] = self.by_key.get(made.key, 0) + made.value

    def note(self, track: Track, deductions: list[Json], now_ms: int) -> None:
        """Write the event, but not a second one of the same body key (the table's unique constraint)."""
        if track.body_key:
            unique = (track.customer, track.feature.name, track.body_key)
            if unique in self._event_keys:
                return
            self._event_keys.add(unique)
        ts = track.ts if track.ts is not None else now_ms
        self.events.add(
            track.customer, track.feature.name, ts, track.value, track.properties, deductions,
            now_ms + self.list_lag_ms,
        )  # fmt: skip

    # What is remembered

    def claimed(self, key: str, now_ms: int) -> bool:
        return self.claims.get(key, 0) > now_ms

    def claim(self, track: Track, now_ms: int) -> None:
        for key in track.claims:
            self.claims[key] = now_ms + self.key_retention_ms

    def enqueue(self, track: Track, due_ms: int) -> None:
        self._count += 1
        heapq.heappush(self.queue, (due_ms, self._count, track))

    def work_off(self, now_ms: int) -> None:
        """Apply what was queued and is due, each at its own time. What cannot be applied is dropped without a trace."""
        while self.queue and self.queue[0][0] <= now_ms:
            due_ms, _count, track = heapq.heappop(self.queue)
            try:
                self.charge(track, due_ms)
            except (Insufficient, KeyError):
                continue
