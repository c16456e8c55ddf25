"""What programs sent, and what each item has to be answered: all that the door's judge goes by.

Guarantee: it reads no table and calls no code of the server's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

WINDOW: Final = 300_000
BILLED: Final = ("acme", "globex")
"""Who is billed; anybody else's usage waits."""
FEATURES: Final = {"page.render": "render", "job.run": "job_run", "1024": "compute_1gb", "4096": "compute_4gb"}
"""What makes a feature: event types, and sizes. All else waits."""


@dataclass(frozen=True)
class Item:
    """One item of a batch. `wrong`: the code with which it is no item at all; else `key`, what it says, and whose it
    is: `what` (a type or a size) of which `quantity` was used at `ts`."""

    sent: Any
    wrong: str | None = None
    key: tuple[str, ...] = ()
    content: tuple[Any, ...] = ()
    org: str = ""
    what: str = ""
    quantity: int = 0
    ts: int = 0

    @property
    def standing(self) -> tuple[str, str | None]:
        """What becomes of a new one."""
        if self.org not in BILLED:
            return "pending", "unassigned"
        return ("accepted", None) if self.what in FEATURES else ("pending", "unmapped")


@dataclass
class Bucket:
    """So many tokens a second, and at most twice as many at once."""

    per_s: int
    left: Fraction
    at_ms: int

    def now(self, now_ms: int) -> Fraction:
        return min(Fraction(2 * self.per_s), self.left + Fraction((now_ms - self.at_ms) * self.per_s, 1000))

    def take(self, amount: int, now_ms: int) -> None:
        self.left, self.at_ms = self.now(now_ms) - amount, now_ms


@dataclass
class Books:
    """All of it. `taken`: the first item of each key."""

    per_key: int
    per_org: int
    taken: dict[tuple[str, ...], Item] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    said: Counter[str] = field(default_factory=Counter)

    def answers(self, batch: list[Item]) -> list[tuple[str, str | None]]:
        """What each item of a batch has to be answered, were it committed now."""
        seen: dict[tuple[str, ...], Item] = {}
        found: list[tuple[str, str | None]] = []
        for item in batch:
            if item.wrong is not None:
                found.append(("invalid", item.wrong))
                continue
            before = self.taken.get(item.key, seen.get(item.key))
            if before is None:
                seen[item.key] = item
                found.append(item.standing)
            else:
                found.append(("duplicate", None) if before.content == item.content else ("conflict", "other_content"))
        return found

    def commit(self, batch: list[Item]) -> None:
        for item in batch:
            if item.wrong is None:
                self.taken.setdefault(item.key, item)

    def is_too_much(self, key: str, batch: list[Item], now_ms: int) -> bool:
        """Whether a batch is more than its key, or an organisation, may send now; else it is counted."""
        asked = [(f"key {key}", self.per_key, len(batch))]
        orgs = Counter(one.org for one in batch if one.wrong is None)
        asked += [(f"org {org}", self.per_org, count) for org, count in orgs.items()]
        for name, per_s, _ in asked:
            self.buckets.setdefault(name, Bucket(per_s, Fraction(2 * per_s), now_ms))
        if any(self.buckets[name].now(now_ms) < count for name, _, count in asked):
            return True
        for name, _, count in asked:
            self.buckets[name].take(count, now_ms)
        return False

    def owed(self) -> dict[tuple[str, int, str], int]:
        """What has to be billed, by organisation, window and feature."""
        sums: Counter[tuple[str, int, str]] = Counter()
        for item in self.taken.values():
            if item.standing[0] == "accepted":
                sums[item.org, item.ts - item.ts % WINDOW, FEATURES[item.what]] += item.quantity
        return {place: quantity for place, quantity in sums.items() if quantity}
