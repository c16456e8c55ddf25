"""What the machine on lots goes by: all there ever was of one wallet, a micro-credit at a time."""

from __future__ import annotations

from bisect import bisect_right
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from drawdown.schema.units import MINUTE_MS

WAIT_MS: Final = 12 * MINUTE_MS
EVER: Final = 10**18
FEATURES: Final = (None, "x", "y")
TAKEN: Final = ""
"""In the place of a feature: what was taken back of no lot."""
MONTHS: Final = [int(datetime(2025 + n // 12, n % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000 for n in range(480)]
NAMES: Final = [f"{2025 + n // 12}-{n % 12 + 1:02}" for n in range(480)]
TIER: Final = 3
"""What a month of the tier costs, in micro-credits."""


def month_of(moment: int) -> int:
    """The number of a moment's month."""
    return bisect_right(MONTHS, moment) - 1


@dataclass
class Given:
    """A lot, as the model knows it. Of a plan's: the number of its month; of what was included, from and up to what it
    rolls over; of what rolled over, what late use took."""

    key: str
    amount: int
    priority: int
    begins: int
    ends: int
    features: tuple[str, ...] | None = None
    taken: int = 0
    expired: int = 0
    paid: int = 0
    drained: int = 0
    """Of what it paid, what was taken back of no lot."""
    month: int | None = None
    rolls: tuple[int, int] | None = None
    reduced: int = 0

    @property
    def left(self) -> int:
        return self.amount - self.taken - self.paid - self.expired

    @property
    def before(self) -> tuple[int, int, int, int, str]:
        return (self.priority, self.ends, 1 if self.features is None else 0, self.begins, self.key)


@dataclass
class Run:
    amount: int
    accepted: int
    ends: int
    state: str = "held"


@dataclass
class Held:
    """The tier, as it was bought."""

    paid_to: int
    renews: bool = True
    ended: bool = False


@dataclass
class Terms:
    """What a plan gives from a moment on."""

    since: int
    included: int
    rolls: tuple[int, int]
    first: int


@dataclass
class Model:
    """What there was: lots, runs, each use with its moment and feature, plans and stays on them, the tier."""

    lots: dict[str, Given] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    uses: list[tuple[int, str | None, int]] = field(default_factory=list)
    plans: dict[str, list[Terms]] = field(default_factory=dict)
    stays: list[tuple[str, int]] = field(default_factory=list)
    tier: Held | None = None
    paid: set[int] = field(default_factory=set)
    """The months of the tier that were charged."""
    owed: int = 0
    back: int = 0
    wait: int = WAIT_MS

    def add(self, lot: Given) -> None:
        self.lots.setdefault(lot.key, lot)

    def balance(self, now: int) -> int:
        begun = [one for one in self.lots.values() if one.begins <= now or one.taken]
        spent = sum(amount for _, _, amount in self.uses)
        return sum(one.amount - one.taken - one.expired for one in begun) - spent

    def over(self, now: int) -> int:
        """What would leave the wallet if all that is over by now were booked at once, and no run held anything."""
        then = deepcopy(self)
        for run in then.runs.values():
            run.state = "settled"
        then.wait = 0
        then.tier = None
        then.fall_due(now)
        return max(self.balance(now) - then.balance(now), 0)

    def available(self, now: int) -> int:
        """What is left, a micro-credit at a time: what is over goes first, as far as runs do not hold it."""
        balance, held = self.balance(now), self.held
        for _ in range(self.over(now)):
            if balance <= held and held:
                held -= 1
            balance -= 1
        return balance - held

    @property
    def held(self) -> int:
        return sum(run.amount for run in self.runs.values() if run.state == "held")

    def pay(self) -> None:
        """Which lot paid for what, from the beginning."""
        for lot in self.lots.values():
            lot.paid = lot.drained = 0
        moments = {one.begins for one in self.lots.values()} | {one.ends for one in self.lots.values()}
        waiting: list[str | None] = []
        self.back = 0
        for start, end in pairwise(sorted({-EVER, EVER} | moments)):
            for feature in (*FEATURES, TAKEN):
                total = 0
                for ts, what, amount in self.uses:
                    if what == feature and start <= ts < end:
                        total += amount
                waiting += [feature] * total
                self.back -= min(total, 0)
            self._sort(waiting, start)
            while self.back and waiting:
                waiting.pop(0)
                self.back -= 1
            for lot in sorted(self.lots.values(), key=lambda one: one.before):
                if lot.begins <= start < lot.ends:
                    self._sort(waiting, start, lot)
                    for feature in list(waiting):
                        fits = lot.features is None or feature in lot.features
                        if fits and lot.paid < lot.amount - lot.taken:
                            lot.paid += 1
                            lot.drained += feature == TAKEN
                            waiting.remove(feature)
        self.owed = len(waiting)

    def _sort(self, waiting: list[str | None], start: int, paying: Given | None = None) -> None:
        """Put last what another lot, for some features, can pay."""
        others = [
            lot.features
            for lot in self.lots.values()
            if lot is not paying and lot.begins <= start < lot.ends and lot.paid < lot.amount - lot.taken
        ]
        can = {feature for features in others for feature in features or ()}
        waiting.sort(key=lambda feature: (feature in can, feature is not None, feature or ""))

    def fall_due(self, now: int) -> int:
        """Runs that are over, what plans give, lots that are over, the tier; what waits to expire, or to be taken."""
        for run in self.runs.values():
            if run.state == "held" and run.ends <= now:
                run.state = "expired"
        self._give(now)
        while True:
            waits, room = self._expire(now)
            changed, pending = self._roll(now, waits, room)
            if not changed and not self._turn(now):
                return waits + pending

    def _give(self, now: int) -> None:
        for number, (plan, since) in enumerate(self.stays):
            until = self.stays[number + 1][1] if number + 1 < len(self.stays) else EVER
            for begins in (since, *(moment for moment in MONTHS if since < moment <= now)):
                terms = [one for one in self.plans[plan] if one.since <= begins]
                if begins >= until or not terms:
                    continue
                month = month_of(begins)
                if terms[-1].first and number == 0 and begins == since:
                    self.add(Given("first:acme", terms[-1].first, 50, begins, EVER))
                if terms[-1].included:
                    key = f"included:acme:{plan}:{NAMES[month]}"
                    lot = Given(key, terms[-1].included, 50, begins, MONTHS[month + 1], month=month)
                    lot.rolls = terms[-1].rolls
                    self.add(lot)

    def _over(self, now: int) -> list[Given]:
        over = [one for one in self.lots.values() if one.ends + self.wait <= now]
        return sorted(over, key=lambda one: (one.ends, one.key))

    def _expire(self, now: int) -> tuple[int, list[int]]:
        """What waits; and what the wallet has, and runs hold of it, once all that is left of lots is gone."""
        self.pay()
        over = self._over(now)
        for lot in over:
            lot.expired = min(lot.expired, lot.amount - lot.taken - lot.paid)
        balance, held, waits = self.balance(now), self.held, 0
        for lot in over:
            for _ in range(lot.left):
                if balance <= held and held:
                    held, waits = held - 1, waits + 1
                else:
                    lot.expired += 1
                balance -= 1
        return waits, [balance, held]

    def _roll(self, now: int, waits: int, room: list[int]) -> tuple[bool, int]:
        """Whether something rolled over now, or less of what did; and what is still to be taken of that."""
        pending = 0
        included = [one for one in self._over(now) if one.rolls is not None]
        for month in sorted({one.month or 0 for one in included}):
            those = sorted((one for one in included if one.month == month), key=lambda one: (one.begins, one.key))
            expired, (least, most) = sum(one.expired for one in those), those[-1].rolls or (0, 0)
            wanted = min(expired, most) if expired >= max(least, 1) else 0
            rolled = [one for one in self.lots.values() if one.rolls is None and one.month == month + 1]
            less = sum(one.amount - one.reduced for one in rolled) - wanted
            if less < 0 and not waits:
                key = f"rollover:acme:{NAMES[month + 1]}" + (f":r{len(rolled)}" if rolled else "")
                self.add(Given(key, -less, 49, MONTHS[month + 1], MONTHS[month + 2], month=month + 1))
                return True, 0
            for lot in sorted(rolled, key=lambda one: one.before, reverse=True):
                taken, (balance, held) = 0, room
                for _ in range(min(less, lot.left)):
                    if balance <= held and held:
                        held -= 1
                    else:
                        taken += 1
                    balance -= 1
                if taken:
                    lot.taken, lot.reduced = lot.taken + taken, lot.reduced + taken
                    return True, 0
            if less > 0 and any(one.ends + self.wait > now for one in rolled):
                pending += less
        return False, pending

    def _turn(self, now: int) -> bool:
        """Whether the tier was charged, or ended."""
        tier = self.tier
        if tier is None or tier.ended or tier.paid_to + (WAIT_MS if tier.renews else 0) > now:
            return False
        if tier.renews and self.available(now) >= TIER:
            self.charge(MONTHS[month_of(now)])
        else:
            tier.ended = True
        return True

    def charge(self, ts: int) -> None:
        """The tier, for a moment's month."""
        month = month_of(ts)
        if month not in self.paid:
            self.uses.append((ts, None, TIER))
        self.paid.add(month)
        self.tier = Held(MONTHS[month + 1])
