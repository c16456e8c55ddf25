"""The setting of the siege of Autumn: a credit system, its customers, what they use, and what strikes the service.

Guarantee: all of it is drawn from the seed. What is charged in credits is kept beside each cost it was charged at, so
that a cost may change during the siege and the sums stay exact.
"""

from __future__ import annotations

import json
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.kit.emulator import FaultPlan
from drawdown.worker.features.actions import DEFAULT_SIZES_GB
from tests.crash.autumn.books import Books, Watched
from tests.crash.autumn.retelling import History
from tests.emulators.autumn import LOSS_FAULTS, READ_FAULTS, SLOW_FAULTS, STALE_FAULTS, TRACK_FAULTS, AutumnEmulator
from tests.emulators.autumn_numbers import ONE_OFF
from tests.emulators.serve import CREDITS, CREDITS_PER_GB_SECOND

AT_MS: Final = 1_733_702_400_000
"""2024-12-09T00:00:00Z."""
DAY_MS, WINDOW_MS = 86_400_000, 300_000
DAYS: Final = 3
"""Used before the siege begins: reconcile compares each day."""
FROM_MS: Final = AT_MS - DAYS * DAY_MS
PUSHES_A_CUSTOMER: Final = 25
CHANGED, NEW_COST = "compute_8gb", Decimal("0.00085")
CHANGED_SHARE: Final = 0.25
"""Customers that use the feature whose cost changes during the siege."""
LATE_SHARE, MORE_SHARE = 0.2, 0.05
"""Samples that come some parts late; windows that get a second one."""
CHARGES = (*TRACK_FAULTS, *LOSS_FAULTS, *SLOW_FAULTS)
STRUCK: Final = 0.42
"""Of calls that charge; what a store or a limit then does otherwise makes it a third."""
READS: Final = {"reads_fail": 0.13, "reads_lag": 0.14, "connection_refused": 0.02, "nonsense": 0.02, "stale_read": 0.08}
RATES: Final = {**{kind: STRUCK / len(CHARGES) for kind in CHARGES}, **READS}
KINDS: Final = (*CHARGES, *(set(READ_FAULTS) | set(STALE_FAULTS)) - set(CHARGES), "balances_lost")
STEADY_S: Final = 100
"""Each window of a customer whose grants are used up exactly: 0.01 credits."""
STEADY: Final = CREDITS_PER_GB_SECOND * STEADY_S
GRANTED_AT_ONCE: Final = 10
"""Windows that a small grant lasts for."""
BY_HAND: Final = Decimal("0.000137")
"""What a person adds to a balance: no sum of charges ends like that."""
LARGE: Final = 10_000
OWN_UNITS: Final = 900
OWN_PARTS: Final = 4
"""Of own units that are granted once: together half of what is used."""
CHANGING: Final = ("ending", "joining", "leaving", "passing")
"""Manners of customers of whom a part or a plan comes or goes during the siege."""
PROMO: Final = "promo"
LATE_MS: Final = AT_MS + 300 * DAY_MS
"""When that part ends, until a person sets an earlier end."""
WITHDRAWN_SHARE: Final = 0.3
"""Customers with a large plan of whose billed samples the host withdraws one during the siege: it is given back."""


@dataclass(frozen=True)
class Sample:
    """`ts` in milliseconds."""

    name: str
    org: str
    feature: str
    ts: int
    seconds: int

    @property
    def memory_mb(self) -> int:
        return 1024 * int(self.feature.removeprefix("compute_").removesuffix("gb"))


@dataclass(frozen=True)
class Customer:
    """`manner`: how its credit is given."""

    name: str
    manner: str
    features: tuple[str, ...]


MANNERS: Final = {
    "plan": 0.3, "parts": 0.17, "exact": 0.12, "limited": 0.08, "own": 0.05, "once": 0.06, "by_hand": 0.03,
    "ending": 0.08, "joining": 0.04, "leaving": 0.04, "passing": 0.03,
}  # fmt: skip
"""Shares. plan: a large one. parts: a small plan, and grants once, each smaller than the use. exact: grants that are
used up exactly, and topped up. limited: a spend limit below the use. own: units of a feature of its own, then credits.
once: the same, granted once in parts, so that each vanishes once it is used up; of the feature whose cost changes.
by_hand: a person adds to the balance, without a word. ending: a large grant, and a part that ends during the siege.
joining, leaving: a large grant, and a plan that begins, or ends, during the siege. passing: one that does both."""


@dataclass
class Setting:
    """Customers and their use, in parts as time goes by."""

    customers: list[Customer]
    parts: list[list[Sample]]
    withdrawn: list[Sample] = field(default_factory=list)
    """Samples of the first part that the host withdraws."""

    @property
    def samples(self) -> int:
        return sum(len(part) for part in self.parts)

    def used(self) -> Mapping[tuple[str, str], int]:
        """Units by customer and feature, from the samples alone."""
        found: Counter[tuple[str, str]] = Counter()
        for (org, feature, _), seconds in self.used_by_window().items():
            found[org, feature] += seconds
        return found

    def used_by_window(self) -> Mapping[tuple[str, str, int], int]:
        """The same, by the window's begin."""
        found: Counter[tuple[str, str, int]] = Counter()
        for sign, samples in ((1, [one for part in self.parts for one in part]), (-1, self.withdrawn)):
            for one in samples:
                found[one.org, one.feature, one.ts - one.ts % WINDOW_MS] += sign * one.seconds
        return found

    def windows(self) -> int:
        return len({(one.org, one.feature, one.ts // WINDOW_MS) for part in self.parts for one in part})


def make(pushes: int, parts: int, dice: random.Random) -> Setting:
    """At least so many windows of customers' features: each is a push, and one more for each late sample."""
    count = max(len(MANNERS) + 3, pushes // PUSHES_A_CUSTOMER)
    customers = [_customer(number, dice) for number in range(count)]
    weights = [dice.paretovariate(2) for _ in customers]
    taken: set[tuple[str, str, int]] = set()
    while len(taken) < pushes:
        for one in dice.choices(customers, weights, k=pushes - len(taken)):
            window = dice.randrange(FROM_MS, AT_MS - 2 * WINDOW_MS) // WINDOW_MS
            taken.add((one.name, dice.choice(one.features), window))
    steady = {one.name for one in customers if one.manner == "exact"}
    split: list[list[Sample]] = [[] for _ in range(parts)]
    windows = sorted(taken, key=lambda one: (one[2], one[0], one[1]))
    for number, (org, feature, window) in enumerate(windows):
        part = number * parts // len(windows)
        for again in range(2 if dice.random() < MORE_SHARE else 1):
            seconds = STEADY_S if org in steady else dice.randint(1, 300)
            ts = window * WINDOW_MS + dice.randrange(WINDOW_MS)
            late = again or dice.random() < LATE_SHARE
            made = Sample(f"s{number}-{again}", org, feature, ts, seconds)
            split[dice.randrange(part, parts) if late else part].append(made)
    return Setting(customers, split, _withdrawn(customers, split[0]))


def _withdrawn(customers: Sequence[Customer], billed: Sequence[Sample]) -> list[Sample]:
    """One sample of some customers with a large plan."""
    first = {one.org: one for one in reversed(billed)}
    plan = [first[one.name] for one in customers if one.manner == "plan" and one.name in first]
    return plan[: max(2, int(len(plan) * WITHDRAWN_SHARE))]


def _customer(number: int, dice: random.Random) -> Customer:
    """The first few are of each manner, whatever the dice say."""
    manners = list(MANNERS)
    manner = manners[number] if number < len(manners) else dice.choices(manners, list(MANNERS.values()))[0]
    if manner == "exact":
        return Customer(f"c{number}", manner, ("compute_1gb",))
    steady = [f"compute_{size}gb" for size in DEFAULT_SIZES_GB if f"compute_{size}gb" != CHANGED]
    features = dice.sample(steady, dice.randint(1, 3))
    if manner == "own":
        features = sorted({"compute_1gb", *features})
    elif manner == "once":
        features = [CHANGED, *features[1:]]
    elif manner == "plan" and (number == 0 or dice.random() < CHANGED_SHARE / MANNERS["plan"]):
        features.append(CHANGED)
    return Customer(f"c{number}", manner, tuple(features))


@dataclass
class Struck(AutumnEmulator):
    """Autumn, and what is done to it in between its calls: it is served by a thread of its own."""

    orders: deque[Callable[[int], object]] = field(default_factory=deque)
    by_hand: Counter[str] = field(default_factory=Counter)
    """How often a person added BY_HAND to a customer's credits."""

    @property
    def came_about(self) -> Counter[str]:
        """What charges came to."""
        assert isinstance(self.account, Watched)
        return self.account.came_about

    @property
    def history(self) -> History:
        assert isinstance(self.account, Watched)
        return self.account.history

    in_peace: Counter[str] = field(default_factory=Counter)
    """Calls by route before anything struck."""
    loses: bool = False
    """Whether the balance store is killed right after the next charge: then it has something to lose."""
    repeats: bool = False
    """Whether a proxy repeats the next charge while the key store is away, so that it is drawn twice."""

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        while self.orders:
            self.orders.popleft()(now_ms)
        answer = super().handle(call, now_ms)
        self.history.note_call(call, answer, now_ms)
        if self.loses and any(one.at_ms == now_ms for one in self.account.store.unwritten):
            self.loses = False
            self.lose_balances(now_ms)
        if self.repeats and call.url.endswith("/track") and isinstance(answer, Answer) and answer.status == 200:
            self.repeats = not self._repeat(call, now_ms)
        return answer

    def _repeat(self, call: Call, now_ms: int) -> bool:
        """Whether it was drawn twice. What was not drawn at first would be drawn once, without an event."""
        if json.loads(call.body or b"{}").get("idempotency_key") not in self.account.by_key:
            return False
        before, rates, key_store = len(self.doubles), self.faults.rates, self.key_store
        self.faults.rates, self.key_store = {}, "refusing"
        super().handle(call, now_ms)
        self.faults.rates, self.key_store = rates, key_store
        return len(self.doubles) > before

    def top_up(self, customer: str, name: str, credits: Decimal | int) -> None:
        """By `balances.create`, as the host's own program would."""
        told = {
            "customer_id": customer, "feature_id": CREDITS, "included_grant": float(credits), "balance_id": name,
        }  # fmt: skip
        headers = {"authorization": f"Bearer {self.secret_key}", "x-api-version": "2.3.0"}
        call = Call("POST", "http://autumn/v1/balances.create", headers, json.dumps(told).encode())

        def do(now_ms: int) -> None:
            answer = AutumnEmulator.handle(self, call, now_ms)
            assert isinstance(answer, Answer) and answer.status == 200, answer
            self.history.note(customer, now_ms, f"is granted {credits} as {name}")

        self.orders.append(do)


def emulated(setting: Setting, seed: int, now_ms: int) -> Struck:
    """The account, with each customer's credit as its manner is."""
    made = Struck(
        FaultPlan(seed, RATES), account=Watched(books=Books()), lists_per_s=10**9, tracks_per_minute=10**9
    )  # its limits are a second's and a minute's, and here hours pass in no time
    account, used = made.account, setting.used()
    costs = {f"compute_{size}gb": size * CREDITS_PER_GB_SECOND for size in DEFAULT_SIZES_GB}
    for feature in costs:
        account.add_feature(feature)
    account.add_feature(CREDITS, kind="credit_system", credit_schema=costs)
    account.add_plan("large", {CREDITS: (LARGE, "month")})
    for one in setting.customers:
        account.add_customer(one.name, now_ms)
        whole = sum((used[one.name, feature] * costs[feature] for feature in one.features), Decimal(0))
        if one.manner in ("plan", "own", "once", "by_hand", "leaving"):
            account.attach(one.name, "large", now_ms)
        if one.manner == "own":
            account.grant(one.name, "compute_1gb", OWN_UNITS, now_ms, interval="month")
        if one.manner == "once":
            for part in range(OWN_PARTS):
                units = round(used[one.name, CHANGED] / (2 * OWN_PARTS)) + 1
                account.grant(one.name, CHANGED, units, now_ms, interval="one_off", given=f"own{part}")
        if one.manner == "exact":
            account.grant(one.name, CREDITS, GRANTED_AT_ONCE * STEADY, now_ms, interval="one_off", given="first")
        if one.manner in ("parts", "limited"):
            account.grant(one.name, CREDITS, round(whole / 4, 4), now_ms, plan="small", interval="month")
        if one.manner == "parts":
            for part in range(2):
                once = {"interval": "one_off", "given": f"part{part}"}
                account.grant(one.name, CREDITS, round(whole / 4, 4), now_ms, **once)  # type: ignore[arg-type]
        if one.manner in CHANGING:
            account.grant(one.name, CREDITS, LARGE, now_ms, interval=ONE_OFF, given="large")
        if one.manner == "ending":
            account.grant(one.name, CREDITS, round(whole, 4), now_ms, interval=ONE_OFF, given=PROMO, expires_at=LATE_MS)
        if one.manner == "limited":
            limit = {"feature_id": CREDITS, "enabled": True, "overage_limit": round(whole / 4, 4)}
            account.control(one.name, {"spend_limits": [limit]}, now_ms)
    return made
