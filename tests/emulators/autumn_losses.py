"""What the emulated Autumn's balance store loses when it is killed, and what reads showed a while ago.

Guarantee: a loss undoes what was deducted since the last sync, to the last digit, in the balances and in what the
account keeps of the truth; events and claimed keys stay, as observed. Changes by hand survive. A part whose cycle ended
meanwhile begins anew anyway, and one that ended is gone: nothing of it is undone.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from tests.emulators.autumn_draw import Part
from tests.emulators.autumn_numbers import Number, Units, whole
from tests.emulators.autumn_state import Customer

SYNC_MS = 60_000
"""How often balances are written down, unless told otherwise."""


@dataclass(frozen=True)
class Charge:
    """A deduction in base units, and by balance in that one's unit: (balance, amount)."""

    customer: str
    feature: str
    ts: int
    value: Units
    key: str | None
    parts: tuple[tuple[str, Number], ...] = ()
    by_header: bool = False
    """Whether the key came in the header: the same key in the body is another one."""


@dataclass
class Truth:
    """What was really deducted."""

    sums: dict[tuple[str, str, int], Units] = field(default_factory=dict)
    by_key: dict[str, Units] = field(default_factory=dict)
    doubles: list[Charge] = field(default_factory=list)
    drawn: dict[tuple[str, str], Number] = field(default_factory=lambda: defaultdict(int))
    """By customer and balance, in the balance's unit."""
    drawn_by_key: dict[str, dict[str, Number]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    """By key, and by balance in that one's unit."""
    _claims: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def add(self, made: Charge) -> None:
        for balance, amount in made.parts:
            self.drawn[made.customer, balance] += amount
            if made.key is not None:
                self.drawn_by_key[made.key][balance] += amount
        if made.value:
            place = (made.customer, made.feature, made.ts)
            self.sums[place] = whole(self.sums.get(place, 0) + made.value)
            if made.key is not None:
                if (made.key, made.by_header) in self._claims:
                    self.doubles.append(made)
                self._claims[made.key, made.by_header] += 1
                self.by_key[made.key] = whole(self.by_key.get(made.key, 0) + made.value)

    def take_back(self, made: Charge, value: Units, parts: list[tuple[str, Number]]) -> None:
        """Undo so much of a charge."""
        place, key = (made.customer, made.feature, made.ts), made.key
        for balance, amount in parts:
            self.drawn[made.customer, balance] -= amount
            if key is not None:
                self.drawn_by_key[key][balance] -= amount
        if not value:
            return
        self.sums[place] = whole(self.sums[place] - value)
        if not self.sums[place]:
            del self.sums[place]
        if key is not None:
            self._claims[key, made.by_header] -= 1
            self._claims += Counter()  # without those that are at zero
            self.by_key[key] = whole(self.by_key[key] - value)
            if not self.by_key[key]:
                del self.by_key[key]
        if made in self.doubles:
            self.doubles.remove(made)


@dataclass(frozen=True)
class Written:
    """A charge that may not have been written down yet."""

    at_ms: int
    made: Charge
    customer: Customer
    parts: list[Part]


@dataclass
class Store:
    """The balance store. `sync_ms`: how often it is written down; None: only when `sync` is called."""

    truth: Truth
    sync_ms: int | None = SYNC_MS
    unwritten: list[Written] = field(default_factory=list)
    undone: dict[tuple[str, str], Number] = field(default_factory=lambda: defaultdict(int))
    """By customer and balance, how much was given back by losses, in the balance's unit."""
    undone_charges: list[Charge] = field(default_factory=list)
    _synced_at: int = 0

    def sync(self) -> None:
        self.unwritten.clear()

    def _sync_due(self, now_ms: int) -> None:
        if self.sync_ms is None:
            return
        last = now_ms - now_ms % self.sync_ms
        if last > self._synced_at:
            self._synced_at = last
            self.unwritten = [one for one in self.unwritten if one.at_ms >= last]

    def note(self, one: Written) -> None:
        self._sync_due(one.at_ms)
        self.unwritten.append(one)

    def lose(self, now_ms: int) -> list[Charge]:
        """Go back to the last sync; what is undone, the latest first."""
        self._sync_due(now_ms)
        undone = [self._undo(one, now_ms) for one in reversed(self.unwritten)]
        self.unwritten.clear()
        found = [one for one in undone if one is not None]
        self.undone_charges += found
        return found

    def _undo(self, one: Written, now_ms: int) -> Charge | None:
        back = [part for part in one.parts if part.cycle == part.grant.resets_at and not part.grant.ended(now_ms)]
        if not back:
            return None
        value: Units = 0
        for part in back:
            part.grant.balance += part.amount
            self.undone[one.made.customer, part.grant.feature.name] += part.amount
            value += part.units
            self._bring_back(one.customer, part, now_ms)
        parts = [(part.grant.feature.name, part.amount) for part in back]
        self.truth.take_back(one.made, value, parts)
        made = one.made
        return Charge(made.customer, made.feature, made.ts, whole(value), made.key, tuple(parts), made.by_header)

    def _bring_back(self, customer: Customer, part: Part, now_ms: int) -> None:
        """A grant that was dropped since, for it was used up, is there again."""
        dropped = [one for one in customer.spent if one is part.grant]
        if dropped and not part.grant.gone(now_ms):
            customer.spent[:] = [one for one in customer.spent if one is not part.grant]
            customer.add(part.grant)


@dataclass
class Past:
    """Customers as they were, for so long; kept where reads may be stale."""

    keep_ms: int = 0
    _before: dict[str, deque[tuple[int, Customer]]] = field(default_factory=dict)

    def note(self, customer: Customer, now_ms: int) -> None:
        """Call it before a customer changes."""
        if self.keep_ms:
            kept = self._before.setdefault(customer.name, deque())
            kept.append((now_ms, customer.copy()))
            while kept[0][0] < now_ms - self.keep_ms:
                kept.popleft()

    def at(self, customer: Customer, at_ms: int) -> Customer:
        """A customer as of then, as far back as it is known."""
        return next((one for ms, one in self._before.get(customer.name, ()) if ms > at_ms), customer)
