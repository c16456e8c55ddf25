"""One account of the emulated Autumn: what is charged, what is remembered, what is still queued.

Guarantee: `truth` holds what was really deducted, whatever was answered and whatever the list of events shows.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from tests.emulators.autumn_controls import Controls
from tests.emulators.autumn_draw import Draw, Part, Pool, pools
from tests.emulators.autumn_hooks import Hooks, Level
from tests.emulators.autumn_list import Events
from tests.emulators.autumn_losses import Charge, Past, Store, Truth, Written
from tests.emulators.autumn_numbers import ONE_OFF, Given, Json, Number, Units, decimal, exact, later, whole
from tests.emulators.autumn_state import Customer, Feature, Grant, Item, Plan, subscription

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
    version: str = "2.3.0"

    @property
    def claims(self) -> list[str]:
        """Both namespaces: the body's keys are kept under a prefix, the header's bare."""
        body = [f"track:{self.body_key}"] if self.body_key else []
        return body + ([self.header_key] if self.header_key else [])


@dataclass
class Account:
    """State and arithmetic; faults are its caller's."""

    env: str = "sandbox"
    list_lag_ms: int = 1_000
    key_retention_ms: int = DAY_MS
    stops_at_grant: bool = False
    """Whether `overflow`, too, gives back no more than was used. No recording shows it: it keeps a charge that is done
    in part under test."""
    features: dict[str, Feature] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    customers: dict[str, Customer] = field(default_factory=dict)
    events: Events = field(default_factory=Events)
    books: Truth = field(default_factory=Truth)
    hooks: Hooks = field(default_factory=Hooks)
    past: Past = field(default_factory=Past)
    lost: list[Charge] = field(default_factory=list)
    """Answered 200 and gone afterwards."""
    eventless: list[Charge] = field(default_factory=list)
    """Deducted, and no event shows it."""
    answered: set[str] = field(default_factory=set)
    """Keys of those that were answered 200 all the same."""
    undrawn: list[Charge] = field(default_factory=list)
    """An event shows it, and the deduction is lost."""
    changed: dict[tuple[str, str], Number] = field(default_factory=dict)
    """What people changed of balances by hand, which reads as given back."""
    claims: dict[str, int] = field(default_factory=dict)
    """When each claimed key is forgotten."""
    queue: list[tuple[int, int, Track]] = field(default_factory=list)
    _event_keys: set[tuple[str, str, str]] = field(default_factory=set)
    _count: int = 0

    def __post_init__(self) -> None:
        self.store = Store(self.books)

    @property
    def truth(self) -> dict[tuple[str, str, int], Units]:
        """What was deducted in base units, by customer, feature and the event's time."""
        return self.books.sums

    @property
    def by_key(self) -> dict[str, Units]:
        """What was deducted under each key, in base units."""
        return self.books.by_key

    @property
    def doubles(self) -> list[Charge]:
        """Deductions of a key that was deducted before: the key store failed open."""
        return self.books.doubles

    @property
    def drawn(self) -> dict[tuple[str, str], Number]:
        """What was deducted by customer and balance, in that one's unit."""
        return self.books.drawn

    @property
    def undone(self) -> dict[tuple[str, str], Number]:
        """What losses of the balance store gave back, by customer and balance, in that one's unit."""
        return self.store.undone

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
        credit_schema: Mapping[str, Given] | None = None,
    ) -> Feature:
        schema = {one: exact(cost) for one, cost in (credit_schema or {}).items()}
        self.features[name] = Feature(name, title or name, kind, consumable and kind != "boolean", schema)
        return self.features[name]

    def add_plan(
        self,
        name: str,
        grants: Mapping[str, tuple[Given, str | None]],
        *,
        auto_enable: bool = False,
        now_ms: int = 0,
        controls: Mapping[str, object] | None = None,
    ) -> Plan:
        """`grants`: how much of each feature, and how often anew (None: once). `controls`: billing controls."""
        items = [
            Item(self.features[one], self.next_name("ent"), exact(amount), interval)
            for one, (amount, interval) in grants.items()
        ]
        read = Controls.read(controls or {}, "plan", now_ms)
        self.plans[name] = Plan(name, name.title(), auto_enable, items, now_ms, read)
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
        self.past.note(customer, now_ms)
        customer.subscriptions.append(subscription(self.next_name("cus_prod"), plan, now_ms))
        customer.controls.set(Controls.read(plan.controls.given(), "plan", now_ms))
        self.hooks.attached(customer, plan, customer.subscriptions[-1], self.env)
        for item in plan.items:
            if item.feature.kind == "boolean":
                told: Json = {"id": self.next_name("cus_ent"), "plan_id": plan_id, "expires_at": None}
                customer.flags[item.feature.name] = told | {"feature_id": item.feature.name}
            else:
                self.grant(
                    customer_id, item.feature.name, item.included, now_ms,
                    plan=plan_id, interval=item.interval, unlimited=item.unlimited,
                )  # fmt: skip

    def detach(self, customer_id: str, plan_id: str, now_ms: int) -> None:
        """End a plan, and with it all that it gave."""
        customer = self.customers[customer_id]
        customer.subscriptions[:] = [one for one in customer.subscriptions if one["plan_id"] != plan_id]
        for part in self._parts(customer_id):
            if part.plan == plan_id:
                part.expires_at = now_ms
        self.past.note(customer, now_ms)
        customer.refresh(now_ms)

    def expire(self, customer_id: str, given: str, at_ms: int) -> None:
        """Set when a part ends: from then on it is drawn on in the place of such a part."""
        for part in self._parts(customer_id):
            if part.given == given:
                part.expires_at = at_ms
                self.customers[customer_id].grants[part.feature.name].remove(part)
                self.customers[customer_id].add(part)

    def _parts(self, customer_id: str) -> list[Grant]:
        return [one for grants in self.customers[customer_id].grants.values() for one in grants]

    def control(self, customer_id: str, controls: Mapping[str, object], now_ms: int) -> None:
        """Set billing controls of a customer's own."""
        self.customers[customer_id].controls.set(Controls.read(controls, "customer", now_ms))

    def grant(
        self,
        customer_id: str,
        feature: str,
        amount: Given,
        now_ms: int,
        *,
        plan: str | None = None,
        interval: str | None = None,
        unlimited: bool = False,
        overage_allowed: bool = False,
        given: str | None = None,
        expires_at: int | None = None,
    ) -> Grant:
        """Give a balance, apart from what plans gave."""
        resets_at = later(now_ms, interval) if interval and interval != ONE_OFF else None
        much = exact(amount)
        made = Grant(
            self.next_name("cus_ent"), self.features[feature], plan, much, much, interval, resets_at,
            unlimited, overage_allowed, given, expires_at,
        )  # fmt: skip
        self.past.note(self.customers[customer_id], now_ms)
        self.customers[customer_id].add(made)
        return made

    # What people do to balances

    def pools(self, customer_id: str, feature: str) -> list[Pool]:
        return pools(self.features, self.customers[customer_id], self.features[feature])

    def add_to_balance(
        self, customer_id: str, feature: str, amount: Given, *, given: str | None = None, now_ms: int | None = None
    ) -> None:
        """Granted stays, remaining grows, usage falls; it is told only where it empties a balance (observed). Where
        the feature has no balance of its own, the credits grow by as much as it costs (J24)."""
        for pool in self.pools(customer_id, feature)[:1]:
            for one in [part for part in pool.grants if given in (None, part.given)][:1]:
                self._change(customer_id, pool, one, one.balance + exact(amount) * pool.cost, now_ms)

    def set_remaining(
        self, customer_id: str, feature: str, remaining: Given, *, given: str | None = None, now_ms: int | None = None
    ) -> None:
        """Usage becomes what was granted less this (observed). Of several parts each is emptied in order until so much
        is left (J21); how more is spread over several was not recorded: the first has it."""
        for pool in self.pools(customer_id, feature)[:1]:
            parts = [one for one in pool.grants if given in (None, one.given)]
            less = sum(one.balance for one in parts) - exact(remaining) * pool.cost
            for one in parts:
                if less > 0 and one.balance > 0 and len(parts) > 1:
                    taken = min(less, one.balance)
                    self._change(customer_id, pool, one, one.balance - taken, now_ms)
                    less -= taken
            if less and parts:
                self._change(customer_id, pool, parts[0], parts[0].balance - less, now_ms)

    def _change(self, customer_id: str, pool: Pool, one: Grant, balance: Number, now_ms: int | None) -> None:
        customer, place = self.customers[customer_id], (customer_id, one.feature.name)
        if now_ms is not None:
            self.past.note(customer, now_ms)
        before = Level.of(pool)
        self.changed[place] = self.changed.get(place, 0) + balance - one.balance
        one.balance = balance
        self.hooks.drawn(customer, pool, before, "", "")

    # What is charged

    def customer(self, name: str, now_ms: int) -> Customer | None:
        """A customer as of now: cycles that ended are begun anew, and what is used up for good is gone."""
        found = self.customers.get(name)
        if found is not None:
            found.refresh(now_ms)
        return found

    def charge(self, track: Track, now_ms: int, *, fate: str = "") -> list[Json]:
        """Deduct and write the event; the deductions as they are told. `fate`: both are "gone" right afterwards, or
        there is "no event" ("but 200": the caller answers with a success), or it was "not drawn".

        Errors: Insufficient; KeyError for an unknown customer."""
        customer = self.customer(track.customer, now_ms)
        if customer is None:
            raise KeyError(track.customer)
        found = pools(self.features, customer, track.feature)
        draw = Draw(customer, found, track.value)
        if track.value > 0:
            draw.charge(track.feature, track.behaviour, track.properties, now_ms)
            # Without any balance the answer is a success all the same (C31).
            if track.behaviour == "reject" and found and draw.left > 0:
                raise Insufficient
        else:
            draw.give_back("cap" if self.stops_at_grant else track.behaviour)
        made = _charge(track, draw.parts, now_ms)
        deductions = [one.grant.deduction(one.amount) for one in draw.parts]
        if fate == "gone":
            self.lost.append(made)
            return deductions
        if fate == "not drawn":
            self.undrawn.append(made)
        else:
            self._apply(track, customer, draw, made, now_ms)
        if fate in ("no event", "no event but 200"):
            self.eventless.append(made)
            if fate == "no event but 200" and made.key is not None:
                self.answered.add(made.key)
        else:
            self.note(track, deductions, now_ms)
        return deductions

    def _apply(self, track: Track, customer: Customer, draw: Draw, made: Charge, now_ms: int) -> None:
        self.past.note(customer, now_ms)
        before = [Level.of(one) for one in draw.pools]
        for part in draw.parts:
            part.grant.balance -= part.amount
        self.books.add(made)
        self.store.note(Written(now_ms, made, customer, draw.parts))
        for pool, level in zip(draw.pools, before, strict=True):
            if any(part.grant in pool.grants for part in draw.parts):
                self.hooks.drawn(customer, pool, level, track.feature.name, track.version)
        self._count_limits(track, customer, made, now_ms)

    def _count_limits(self, track: Track, customer: Customer, made: Charge, now_ms: int) -> None:
        """What was given back does not lower what a limit has counted (C21). Of a feature without a balance of its own
        no limit is told (G11, C43)."""
        counted: dict[str, Number] = {track.feature.name: decimal(Fraction(made.value))}
        for name, amount in made.parts:
            if name != track.feature.name:
                counted[name] = counted.get(name, 0) + amount
        for name, amount in counted.items():
            for limit in customer.controls.limits(name, track.properties, now_ms) if amount > 0 else ():
                before, most = limit.usage, limit.number("limit")
                limit.usage = exact(before + amount)
                if before < most <= limit.usage and customer.grants.get(name):
                    self.hooks.limited(customer, name)

    def sync(self) -> None:
        """Write the balances down: what was charged before is safe."""
        self.store.sync()

    def lose_balances(self, now_ms: int) -> None:
        """Kill the balance store: what was charged since the last sync is given back; events and keys stay. Of a charge
        without an event nothing is left, then, but its answer."""
        for made in self.store.lose(now_ms):
            same = [
                one for one in self.eventless if (one.key, one.ts, one.feature) == (made.key, made.ts, made.feature)
            ]
            if same:
                self.eventless.remove(same[-1])
                if made.key in self.answered:
                    self.lost.append(made)
            else:
                self.undrawn.append(made)

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
            if track.customer not in self.customers:
                self.add_customer(track.customer, due_ms)  # the queue makes it (E8, L23)
            try:
                self.charge(track, due_ms)
            except Insufficient:
                continue


def _charge(track: Track, parts: list[Part], now_ms: int) -> Charge:
    by_balance: dict[str, Number] = {}
    for one in parts:
        by_balance[one.grant.feature.name] = by_balance.get(one.grant.feature.name, 0) + one.amount
    value = sum((one.units for one in parts), Fraction(0))
    ts = track.ts if track.ts is not None else now_ms
    key, parts_of = track.body_key or track.header_key, tuple(by_balance.items())
    return Charge(track.customer, track.feature.name, ts, whole(value), key, parts_of, not track.body_key)
