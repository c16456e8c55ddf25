"""What should have been billed, worked out apart from Drawdown: plain Python over what the world itself handed out.

Guarantee: it reads no table and calls no code of the worker's; it knows the samples, withdrawals, mappings and
assignments because the world told it when each was committed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

WINDOW: Final = 300_000
LARGEST_SIZE: Final = 16_777_216
"""What is above it stands for an event type, which counts units."""
EXEMPT: Final = frozenset({"legacy", "none"})
OWN_IDS: Final = frozenset({"stripe"})
"""Providers whose customers have ids of their own: an organisation met for the first time has none there yet."""


class Sample(NamedTuple):
    """One sample as it was first committed; `good` is false for one that must be quarantined."""

    id: str
    org: str
    ts: int
    memory_mb: int
    seconds: int
    good: bool


class Rule(NamedTuple):
    """One line of the mapping, in the order it was added."""

    kind: str
    size: int | None
    feature: str | None
    unit: str
    start: int


class Assignment(NamedTuple):
    start: int
    provider: str
    customer: str


Cell = tuple[str, int, str]
"""(org, window, feature)."""


@dataclass
class Expected:
    """What has to be sealed, and what has to wait, in some windows."""

    owed: dict[Cell, int] = field(default_factory=dict)
    pending: dict[tuple[int, str, int], tuple[str, int, int]] = field(default_factory=dict)


Spot = tuple[int, str, int]
"""(window, org, memory size)."""


@dataclass(frozen=True)
class Run:
    """What the product knows of one of its runs: micro-credits and milliseconds."""

    key: str
    customer: str
    amount: int
    overage: str
    expires_ms: int
    drawn: int = 0
    draws: int = 0
    state: str = "held"
    off: int = 0
    """Written off: an extension charges nothing of it."""

    @property
    def left(self) -> int:
        return max(self.amount - self.drawn, 0) if self.state == "held" else 0

    def costs(self, amount: int) -> int | None:
        """What is charged for an amount more; None where it is refused."""
        room = max(self.amount - self.drawn, 0)
        return amount if self.overage == "charge" or amount <= room else (room if self.overage == "cap" else None)


@dataclass
class Known:
    """What is worked out once for each spot, from `of`: the rules and assignments there are."""

    of: tuple[object, ...]
    spots: dict[Spot, tuple[Assignment | None, Rule | None]] = field(default_factory=dict)


@dataclass
class Oracle:
    """Everything the world handed out."""

    samples: dict[str, Sample] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)
    rules: list[Rule] = field(default_factory=list)
    assignments: dict[str, list[Assignment]] = field(default_factory=lambda: defaultdict(list))
    default: Assignment | None = None
    """How organisations are assigned as they appear, where the workers do that."""
    used: dict[Spot, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    """Seconds and samples in force."""
    runs: dict[str, Run] = field(default_factory=dict)
    """What the product knows of its runs (`tests.simulation.runs`)."""
    _known: Known = field(default_factory=lambda: Known(()))

    def copy(self) -> Oracle:
        """What is known now, to go back to."""
        return Oracle(
            dict(self.samples),
            set(self.withdrawn),
            list(self.rules),
            defaultdict(list, {org: list(found) for org, found in self.assignments.items()}),
            self.default,
            defaultdict(lambda: [0, 0], {spot: list(sums) for spot, sums in self.used.items()}),
            dict(self.runs),
        )

    def took(self, sample: Sample) -> None:
        """A sample was committed; the first one of an id counts."""
        if sample.id not in self.samples:
            self.samples[sample.id] = sample
            self._count(sample, 1)

    def withdraw(self, *names: str) -> None:
        """Samples count no more."""
        for name in names:
            if name not in self.withdrawn:
                self.withdrawn.add(name)
                self._count(self.samples[name], -1)

    def _count(self, sample: Sample, times: int) -> None:
        if sample.good:
            place = self.used[(sample.ts // WINDOW * WINDOW, sample.org, sample.memory_mb)]
            place[0] += times * sample.seconds
            place[1] += times

    def known(self) -> Known:
        """What was worked out from these very rules and assignments before."""
        of = (len(self.rules), self.default, *((org, *found) for org, found in self.assignments.items()))
        if self._known.of != of:
            self._known = Known(of)
        return self._known

    def assigned(self, org: str, window: int) -> Assignment | None:
        """Who bills an organisation's window."""
        known = [one for one in self.assignments[org] if one.start <= window]
        found = max(known, key=lambda one: one.start, default=None)
        if found is None and self.default is not None and self.default.start <= window:
            # Whoever was met before and assigned by hand later: the first assignment is the default's.
            return self.default._replace(customer="" if self.default.provider in OWN_IDS else org)
        return found

    def latest(self, org: str) -> Assignment | None:
        """The last assignment, whether it has begun or not."""
        found = max(self.assignments[org], key=lambda one: one.start, default=None)
        return found or (self.default and self.assigned(org, self.default.start))

    def begins_later(self, org: str, now_ms: int) -> bool:
        """Whether an assignment is scheduled."""
        return any(one.start > now_ms for one in self.assignments[org])

    def fill(self, org: str, provider: str, customer: str) -> bool:
        """The latest assignments, if they are there and had no customer, have one; false where there are none such."""
        first = self.default and self.assigned(org, self.default.start)
        known = sorted({*self.assignments[org], *([first] if first else [])})
        last = max((at for at, one in enumerate(known, 1) if (one.provider, one.customer) != (provider, "")), default=0)
        if last == len(known):
            return False
        self.assignments[org] = [*known[:last], *(one._replace(customer=customer) for one in known[last:])]
        return True

    def rule(self, size: int, window: int) -> Rule | None:
        """The exact size's rule, else the narrowest tier's that holds it, else the open top's; an event type's own."""
        tiers = sorted({r.size for r in self.rules if r.kind == "up_to" and r.size is not None and r.size >= size})
        choices: list[tuple[str, int | None]] = [("exact", size), *(("up_to", tier) for tier in tiers), ("up_to", None)]
        choices = choices[:1] if size > LARGEST_SIZE else choices
        for kind, limit in choices:
            found = None
            for one in self.rules:
                if (one.kind, one.size) == (kind, limit) and one.start <= window:
                    found = one if found is None or one.start >= found.start else found
            if found is not None and found.feature is not None:
                return found
        return None

    def expected(self) -> Expected:
        """Over all windows."""
        answer, known = Expected(), self.known()
        owed: dict[Cell, int] = defaultdict(int)
        for spot, (seconds, count) in self.used.items():
            if spot not in known.spots:
                window, org, size = spot
                known.spots[spot] = (self.assigned(org, window), self.rule(size, window))
            biller, rule = known.spots[spot]
            if not count:
                continue
            window, org, size = spot
            if biller is None or (biller.provider not in EXEMPT and (rule is None or not biller.customer)):
                reason = "no_biller" if biller is None else "no_mapping" if rule is None else "no_customer"
                answer.pending[spot] = (reason, seconds, count)
            elif rule is not None and biller.provider not in EXEMPT:
                assert rule.feature is not None
                owed[(org, window, rule.feature)] += seconds * size if rule.unit == "mb_s" else seconds
        answer.owed = {place: quantity for place, quantity in owed.items() if quantity}
        return answer

    def ever_gave_back(self, org: str) -> bool:
        """Whether a withdrawal may have made this organisation's usage shrink."""
        return any(self.samples[one].org == org for one in self.withdrawn)
