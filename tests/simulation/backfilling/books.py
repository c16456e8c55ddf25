"""What was staged, shown and taken, as those who did it were told: all that the judge of backfills goes by.

Guarantee: what closing would do is worked out from the world's oracle and from what was sent, by no statement of the
product's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Final

from drawdown.events.envelope import UsageEvent
from tests.simulation.oracle import EXEMPT, WINDOW, Oracle

RATE: Final = 2
"""Micro-credits a unit, of every feature of events."""
Name = tuple[str, str, str]
"""An event's: its organisation, source and id."""


def name_of(event: UsageEvent) -> Name:
    return (event.org_id, event.source, event.event_id)


@dataclass
class Held:
    """One backfill. `went_in`: by closing it; `shown`: what stood in each answer, by its hash."""

    name: str
    org: str
    from_ms: int
    to_ms: int
    state: str = "open"
    staged: dict[Name, UsageEvent] = field(default_factory=dict)
    went_in: set[Name] = field(default_factory=set)
    shown: dict[str, Coming] = field(default_factory=dict)
    closed_by: str | None = None

    def outside(self, event: UsageEvent) -> str | None:
        """With which code it is not staged."""
        if event.org_id != self.org:
            return "foreign_org"
        return None if self.from_ms <= event.occurred_ms < self.to_ms else "outside"


@dataclass(frozen=True)
class Coming:
    """What closing would do: events by what becomes of them; what is new, by window, feature or type, biller and what
    it waits for; and which events these are."""

    counts: dict[str, int]
    windows: dict[tuple[int, str, str | None, str | None], tuple[int, int]]
    events: frozenset[Any]

    def lines(self) -> list[tuple[Any, ...]]:
        """By feature, as people are shown it: with events, quantity, windows and a price."""
        sums: dict[tuple[Any, ...], list[int]] = {}
        for (_, what, provider, code), (events, quantity) in self.windows.items():
            billed = code is None and provider not in EXEMPT
            line = sums.setdefault((what, provider, code), [0, 0, 0, 0])
            line[:] = line[0] + events, line[1] + quantity, line[2] + 1, line[3] + RATE * quantity * billed
        return sorted(((*key, *values) for key, values in sums.items()), key=str)


@dataclass
class Books:
    """All of it. `taken`: what is usage, or was; `meters`: of event types."""

    held: dict[str, Held] = field(default_factory=dict)
    taken: dict[Name, UsageEvent] = field(default_factory=dict)
    withdrawn: set[Name] = field(default_factory=set)
    meters: dict[str, int] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)

    def open_of(self, org: str) -> Held | None:
        return next((one for one in self.held.values() if (one.org, one.state) == (org, "open")), None)

    def standing(self, event: UsageEvent) -> str:
        """What would become of an event that comes in."""
        before = self.taken.get(name_of(event))
        if name_of(event) in self.withdrawn:
            return "withdrawn"
        return "new" if before is None else "duplicate" if before == event else "conflict"

    def coming(self, one: Held, oracle: Oracle) -> Coming:
        counts: Counter[str] = Counter(self.standing(event) for event in one.staged.values())
        new = [event for event in one.staged.values() if self.standing(event) == "new"]
        windows: dict[tuple[int, str, str | None, str | None], tuple[int, int]] = {}
        for event in new:
            window = event.occurred_ms - event.occurred_ms % WINDOW
            biller = oracle.assigned(event.org_id, window)
            meter = self.meters.get(event.event_type)
            rule = None if meter is None else oracle.rule(meter, window)
            code = "unmapped" if rule is None else "unassigned" if biller is None else None
            what = event.event_type if rule is None else str(rule.feature)
            place = (window, what, None if biller is None else biller.provider, code)
            events, quantity = windows.get(place, (0, 0))
            windows[place] = (events + 1, quantity + event.quantity)
        return Coming(dict(counts), windows, frozenset(_plain(event) for event in new))


def _plain(event: UsageEvent) -> Any:
    """Its words, to be compared."""
    return tuple((one.name, str(getattr(event, one.name))) for one in fields(event))
