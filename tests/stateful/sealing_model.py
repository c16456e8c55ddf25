"""What is owed, in plain Python: samples, who bills, what sizes mean, and what each seal may settle of it.

Guarantee: it shares nothing with the product but the length of a window. It says when a figure may change, too: only a
seal that reaches a window settles it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

WINDOW = 300_000
EXEMPT = ("legacy", "none")

Place = tuple[str, int]
"""Organisation, window."""


@dataclass
class Sample:
    org: str
    ts: int
    size: int
    seconds: int


@dataclass(frozen=True)
class Meaning:
    """Sizes of exactly `size`, or up to it (None: all larger ones), make `feature` from `start` on."""

    exact: bool
    size: int | None
    feature: str
    factor_is_size: bool
    start: int


@dataclass
class Model:
    """All that the product should know, and what it should have settled of it by now."""

    samples: dict[str, Sample] = field(default_factory=dict)
    billers: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    meanings: list[Meaning] = field(default_factory=list)
    floor: dict[str, int] = field(default_factory=dict)
    watermark: dict[str, int] = field(default_factory=dict)
    """Of each organisation, by its part of the buckets."""
    sealed: dict[tuple[str, int, str], int] = field(default_factory=dict)
    pending: dict[tuple[str, int, int], tuple[int, int]] = field(default_factory=dict)
    """Seconds and samples by organisation, window and size."""

    def places(self, orgs: Iterable[str]) -> set[Place]:
        """Every (organisation, window) of which something is known, at or above the floor."""
        known = {(one.org, one.ts - one.ts % WINDOW) for one in self.samples.values()}
        known |= {key[:2] for key in self.sealed} | {key[:2] for key in self.pending}
        wanted = set(orgs)
        return {place for place in known if place[0] in wanted and place[1] >= self.floor.get(place[0], 0)}

    def biller(self, org: str, window: int) -> str | None:
        begun = [provider for start, provider in sorted(self.billers.get(org, [])) if start <= window]
        return begun[-1] if begun else None

    def meaning(self, size: int, window: int) -> Meaning | None:
        """Exact beats "up to"; of tiers the smallest that holds the size; of one selector the one begun last."""
        found: dict[tuple[bool, int | None], Meaning] = {}
        for one in self.meanings:
            fits = one.size == size if one.exact else one.size is None or one.size >= size
            before = found.get((one.exact, one.size))
            if fits and one.start <= window and (before is None or one.start >= before.start):
                found[one.exact, one.size] = one
        ranked = sorted(found.values(), key=lambda m: (not m.exact, m.size is None, m.size or 0))
        return ranked[0] if ranked else None

    def used(self, place: Place) -> dict[int, tuple[int, int]]:
        """Seconds and samples by size."""
        found: dict[int, tuple[int, int]] = {}
        for one in self.samples.values():
            if (one.org, one.ts - one.ts % WINDOW) == place:
                seconds, count = found.get(one.size, (0, 0))
                found[one.size] = (seconds + one.seconds, count + 1)
        return found

    def due(self, place: Place) -> tuple[dict[str, int], dict[int, tuple[int, int]]]:
        """What a window comes to: quantity by feature, and what waits by size."""
        biller = self.biller(*place)
        billed: dict[str, int] = {}
        waits: dict[int, tuple[int, int]] = {}
        for size, (seconds, count) in self.used(place).items():
            meaning = self.meaning(size, place[1])
            if biller in EXEMPT:
                continue
            if biller is None or meaning is None:
                waits[size] = (seconds, count)
            else:
                quantity = seconds * (size if meaning.factor_is_size else 1)
                billed[meaning.feature] = billed.get(meaning.feature, 0) + quantity
        return billed, waits

    def settle(self, orgs: Iterable[str], lo: int, hi: int, *, pending: bool) -> None:
        """Something sealed the windows in [lo, hi) of these organisations."""
        for org, window in self.places(orgs):
            if lo <= window < hi:
                billed, waits = self.due((org, window))
                _replace(self.sealed, (org, window), billed)
                if pending:
                    _replace(self.pending, (org, window), waits)

    def owed(self, orgs: Iterable[str], lo: int, hi: int) -> int:
        """How many (organisation, window, feature) in [lo, hi) are not sealed as they should be."""
        count = 0
        for place in self.places(orgs):
            if lo <= place[1] < hi:
                billed = {name: quantity for name, quantity in self.due(place)[0].items() if quantity}
                sealed = {key[2]: quantity for key, quantity in self.sealed.items() if key[:2] == place and quantity}
                count += sum(billed.get(name) != sealed.get(name) for name in billed.keys() | sealed.keys())
        return count

    def close(self, org: str, floor: int) -> None:
        """The floor was raised: nothing below it counts any more."""
        self.floor[org] = floor
        gone = [name for name, one in self.samples.items() if one.org == org and one.ts < floor]
        for name in gone:
            del self.samples[name]


def _replace(kept: dict, place: Place, found: dict) -> None:  # type: ignore[type-arg]
    for key in [key for key in kept if key[:2] == place]:
        del kept[key]
    kept.update({(*place, name): value for name, value in found.items()})
