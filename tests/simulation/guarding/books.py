"""What people said of the guard, and what products were answered: all that its judge goes by.

Guarantee: nothing here is read from the database, and no code of the guard's is called: limits, prices and phases are
worked out as `docs/guard.md` says them. Amounts are base units and micro-credits, moments milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

from tests.simulation.oracle import Oracle

PERIODS: Final = ("hour", "day", "month")
LENGTHS: Final = {"hour": 3_600_000, "day": 86_400_000}
AGAIN_AFTER: Final = Fraction(1, 10)
"""So much more of a limit has to be left before it is warned of again."""
CLOSEST: Final = {"org": 0, "pattern": 1, "plan": 2}


def begin_of(period: str, at_ms: int) -> int:
    """When a moment's period began."""
    if period != "month":
        return at_ms - at_ms % LENGTHS[period]
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()) * 1000


@dataclass(frozen=True)
class Metric:
    """What is counted: its price, who pays, what comes of a decision."""

    micro: int = 0
    per: int = 1
    payer: str | None = None
    phase: int = 3
    little: Fraction = Fraction(1, 5)
    fails_open: bool = False

    def costs(self, amount: int) -> int:
        return int(Fraction(amount * self.micro, self.per) + Fraction(1, 2))

    def holds(self, amount: int) -> int:
        """What costs something holds something, however little it is at first."""
        return max(self.costs(amount), 1) if self.micro else 0


@dataclass
class Over:
    """An override, as it was said."""

    number: int
    metric: str
    reach: str
    target: str
    period: str
    amount: int | None
    ends_ms: int | None
    state: str

    def replaces(self, other: Over, now_ms: int) -> bool:
        """It is in force, and newer."""
        same = (self.metric, self.reach, self.target, self.period) == (
            other.metric, other.reach, other.target, other.period,
        )  # fmt: skip
        lasts = self.ends_ms is None or self.ends_ms > now_ms
        return same and self.number > other.number and self.state == "in_force" and lasts

    def is_for(self, org: str, plan: str | None) -> bool:
        whom = {"org": org, "plan": plan}
        return org.startswith(self.target[:-1]) if self.reach == "pattern" else whom[self.reach] == self.target


@dataclass
class Used:
    """A use. `said`: what was asked for under its key. `run`: a run charges for it, and holds `held_micro` while it
    goes on."""

    org: str
    metric: str
    terms: Metric
    at_ms: int
    asked: int
    amount: int
    state: str
    payer: str
    said: tuple[Any, ...]
    decision: str
    would: str
    rule: str
    run: bool
    degraded: bool
    expires_ms: int = 0
    held_micro: int = 0
    charged_micro: int = 0
    forgone_micro: int = 0

    def counts(self, now_ms: int) -> int:
        return 0 if self.is_over(now_ms) else self.amount

    def is_over(self, now_ms: int) -> bool:
        return self.state == "expired" or (self.state == "held" and self.expires_ms <= now_ms)


@dataclass(frozen=True)
class Bound:
    rule: str
    period: str
    amount: int | None
    phase: int


@dataclass(frozen=True)
class Said:
    """What has to be answered."""

    decision: str
    would: str
    enforced: bool
    rule: str
    reason: str
    limit: int | None
    used: int | None
    remaining: int | None


@dataclass(frozen=True)
class Who:
    """Who asks: its plan, whether it ever bought credit, and why a person lets it run nothing."""

    org: str
    plan: str | None
    pays: bool
    stopped: str | None


@dataclass
class Books:
    """All of it."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    limits: dict[tuple[str, str, str], tuple[int | None, int | None]] = field(default_factory=dict)
    """By metric, plan and period: an amount and a phase."""
    overs: list[Over] = field(default_factory=list)
    uses: dict[str, Used] = field(default_factory=dict)
    warned: dict[tuple[str, str, str, int], bool] = field(default_factory=dict)
    denied: Counter[tuple[str, str, int, str, bool]] = field(default_factory=Counter)
    """How often it was refused, or would be: by organisation, metric, minute, reason, and whether it was."""
    given: Counter[str] = field(default_factory=Counter)
    bought: set[str] = field(default_factory=set)
    plans: dict[str, str] = field(default_factory=dict)
    sponsors: set[tuple[str, str]] = field(default_factory=set)
    unheard: list[tuple[Any, ...]] = field(default_factory=list)
    """Calls whose answers were lost, to be given again."""

    def count(self, org: str, metric: str, period: str, at_ms: int, now_ms: int) -> int:
        """What was used in the period of a moment."""
        begin = begin_of(period, at_ms)
        return sum(
            one.counts(now_ms)
            for one in self.uses.values()
            if (one.org, one.metric) == (org, metric) and begin_of(period, one.at_ms) == begin
        )

    def holds(self, payer: str, now_ms: int) -> int:
        """What of a wallet is held."""
        theirs = [one for one in self.uses.values() if one.payer == payer and one.run and one.state == "held"]
        return sum(one.held_micro for one in theirs if not one.is_over(now_ms))

    def spent(self, payer: str) -> int:
        """What a wallet was charged for uses."""
        return sum(one.charged_micro for one in self.uses.values() if one.payer == payer)

    def bounds(self, who: Who, metric: str, now_ms: int) -> Iterator[Bound]:
        """What counts in each period: the nearest override in place of the plan's word."""
        for period in PERIODS:
            plan = next((one for one in (who.plan, "*") if (metric, one, period) in self.limits), None)
            amount, phase = (None, None) if plan is None else self.limits[(metric, plan, period)]
            whole = self.metrics[metric].phase if phase is None else phase
            there = [
                one
                for one in self.overs
                if (one.metric, one.period, one.state) == (metric, period, "in_force")
                and (one.ends_ms is None or one.ends_ms > now_ms)
                and one.is_for(who.org, who.plan)
            ]
            if there:
                found = min(there, key=lambda one: (CLOSEST[one.reach], -one.number))
                yield Bound(f"override:{found.number}", period, found.amount, whole)
            elif plan is not None:
                yield Bound(f"limit:{plan}:{period}", period, amount, whole)

    def decide(self, who: Who, metric: str, amount: int, at_ms: int, now_ms: int, no_credit: str | None = None) -> Said:
        """What has to be said to a wish for so much more in the periods of `at_ms`."""
        bounds, terms = list(self.bounds(who, metric, now_ms)), self.metrics[metric]
        used = {one.period: self.count(who.org, metric, one.period, at_ms, now_ms) for one in bounds}
        room = {one: one.amount - used[one.period] for one in bounds if one.amount is not None}
        nearest = min(room, key=lambda one: room[one], default=None)
        beyond = {one: left for one, left in room.items() if left < amount}
        phase = terms.phase if nearest is None else nearest.phase
        if who.stopped is not None:
            would, phase, rule, reason = "block", 3, "operator", who.stopped
        elif not bounds:
            would, phase, rule, reason = "block", terms.phase, "limit", "no_entitlement"
        elif beyond:
            nearest = min(beyond, key=lambda one: (not _held_to(one.phase, who.pays), beyond[one]))
            would, phase, rule, reason = "block", nearest.phase, nearest.rule, "limit"
        elif no_credit is not None:
            would, phase, rule, reason = "block", terms.phase, "credits", no_credit
        else:
            rule = "unlimited" if nearest is None else nearest.rule
            anew = any(self._warns(who.org, metric, one, used[one.period], amount, at_ms) for one in room)
            would, reason = ("warn", "low") if anew else ("allow", "allowed")
        enforced = _held_to(phase, who.pays)
        decision = "warn" if would == "block" and not enforced else would
        decision = "allow" if decision == "warn" and phase == 0 else decision
        left = None
        if nearest is not None:
            left = max(room[nearest] - (0 if decision == "block" else amount), 0)
        at = None if nearest is None else used[nearest.period]
        limit = None if nearest is None else nearest.amount
        return Said(decision, would, enforced, rule, reason, limit, at, left)

    def note_warned(self, who: Who, metric: str, change: int, at_ms: int, now_ms: int) -> None:
        """What was counted is `change` more from now on: which counters are by now warned of."""
        bounds = {one.period: one.amount for one in self.bounds(who, metric, now_ms)}
        for period in PERIODS:
            key = (who.org, metric, period, begin_of(period, at_ms))
            used, limit = self.count(who.org, metric, period, at_ms, now_ms), bounds.get(period)
            was = self.warned.get(key, False) and self._is_little(metric, limit, used, warned=True)
            self.warned[key] = self._is_little(metric, limit, used + change, warned=was)

    def _warns(self, org: str, metric: str, bound: Bound, used: int, amount: int, at_ms: int) -> bool:
        known = self.warned.get((org, metric, bound.period, begin_of(bound.period, at_ms)), False)
        known = known and self._is_little(metric, bound.amount, used, warned=True)
        return not known and self._is_little(metric, bound.amount, used + amount, warned=False)

    def _is_little(self, metric: str, limit: int | None, used: int, *, warned: bool) -> bool:
        if limit is None:
            return False
        little = self.metrics[metric].little
        return limit - used <= limit * little or (warned and limit - used < limit * (little + AGAIN_AFTER))


class BooksOracle(Oracle):
    """The world's oracle, with the books of the guard: a database that is restored takes both back."""

    books: Books

    def copy(self) -> Oracle:
        plain = Oracle.copy(self)
        made = BooksOracle(**{name: getattr(plain, name) for name in Oracle.__dataclass_fields__})
        made.books = deepcopy(self.books)
        return made


def _held_to(phase: int, pays: bool) -> bool:
    """Whether a phase blocks."""
    return phase == 3 or (phase == 2 and not pays)
