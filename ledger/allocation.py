"""Lots, and the use that each of them pays for.

Guarantee: this module is pure. The same lots and the same use give the same result, in any order of their rows in the
database. Time is cut where lots begin and expire. Within a part of time, lots pay in their order of use. If the lots
cannot pay for a use, it is owed, and later lots pay for it. A refund beyond the use of its part pays for later use,
before any lot does. The payments of the lots are exactly the use, less the owed part, plus the refunds that were not
used up, in micro-credits. A lot that has not begun does not pay.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Literal, TypeAlias, get_args

from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused
from drawdown.schema.text import typed
from drawdown.schema.units import counted_credits

Kind: TypeAlias = Literal["included", "bonus", "purchased", "sponsor", "refund"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
Uses: TypeAlias = Mapping[int, Mapping[str | None, int]]
"""The use in micro-credits, by part of time and by feature.

The key is the number of the part and the feature (None: use without a feature).
"""
TAKEN: Final = ""
"""Marks credit that was taken back without a lot, in place of a feature.

Lots pay for it as for use without a feature.
"""
DEFAULT_PRIORITY: Final = 50
Part: TypeAlias = Literal["included", "rollover", "first"]
"""The source of a lot in its plan."""
ORDER: Final = "priority (lower first), end (none last), restricted before free, begin, key"


@dataclass(frozen=True)
class Lot:
    """Credit as it was granted. Amounts are micro-credits, times are milliseconds.

    `lot`: its key. `expires_ms` None: it does not end. `features`: the features that it pays for; None: all. A lower
    `priority` is used first. `expired_micro` and `taken_micro`: the amounts booked since, in `expiries` and `takes`
    entries.

    These fields belong to some kinds only:

    - `part`, `plan`, `period`: for credit of a plan, the source, the plan and the month of the grant.
    - `rollover_min_micro`, `rollover_max_micro`: for included credit, the amount that can roll over.
    - `reduced_micro`: for rolled-over credit, the part of `taken_micro` that late use took.
    - `pool`: for an allotment, the pool to which the credit returns.
    """

    lot: str
    customer_id: str
    kind: Kind
    amount_micro: int
    priority: int
    begins_ms: int
    expires_ms: int | None
    features: tuple[str, ...] | None
    at_ms: int
    actor: str
    reason: str
    expired_micro: int = 0
    taken_micro: int = 0
    expiries: int = 0
    takes: int = 0
    part: Part | None = None
    plan: str | None = None
    period: str | None = None
    rollover_min_micro: int = 0
    rollover_max_micro: int = 0
    reduced_micro: int = 0
    pool: str | None = None

    @property
    def turn(self) -> tuple[int, bool, int, bool, int, str]:
        """Return a sort key for the lot's place in the order of use (`ORDER`)."""
        ends = self.expires_ms
        return (self.priority, ends is None, ends or 0, self.features is None, self.begins_ms, self.lot)

    def is_over(self, moment_ms: int) -> bool:
        """Return True if the lot cannot pay for use at or after this moment."""
        return self.expires_ms is not None and self.expires_ms <= moment_ms


@dataclass
class Allocation:
    """The result of an allocation, in micro-credits.

    `used`: the payment of each lot. `taken_back`: the part of that payment for credit that was taken back without a
    lot. `unpaid`: use that lots did not pay for, by feature. `back`: refunds that were not used up.
    """

    used: dict[str, int]
    taken_back: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unpaid: dict[str | None, int] = field(default_factory=dict)
    back: int = 0


def is_same(before: Lot, lot: Lot) -> bool:
    """Return True if two lots are the same grant.

    A default start, and an end such as `+30d`, count from the moment of the grant, which differs each time. So the lots
    are compared by their distances from that moment.
    """
    later_ms = lot.at_ms - before.at_ms
    begins, expires = lot.begins_ms, lot.expires_ms
    if begins - before.begins_ms == later_ms:
        begins = before.begins_ms
    if expires is not None and before.expires_ms is not None and expires - before.expires_ms == later_ms:
        expires = before.expires_ms
    again = replace(before, at_ms=lot.at_ms, actor=lot.actor, reason=lot.reason)
    return again == replace(lot, begins_ms=begins, expires_ms=expires)


def other_content(before: Lot) -> Refused:
    """Return the refusal of a key that was used before with different content.

    A person may follow the advice in the message after a lost response, so the advice must not cause a second grant.
    """
    ends = "without expiry" if before.expires_ms is None else f"until {utc(before.expires_ms)}"
    pays = "" if before.features is None else f", for {', '.join(before.features)}"
    given = (
        f"{counted_credits(before.amount_micro)} to {before.customer_id} ({before.kind}, priority "
        f"{before.priority}, from {utc(before.begins_ms)} {ends}{pays})"
    )
    return Refused(
        f"key {before.lot} was used for {given}. This call did not move credit. Run `drawdown "
        f"ledger lots {typed(before.customer_id)}`. Use another key to grant more credit"
    )


def parts(lots: Sequence[Lot], cuts: Collection[int] = ()) -> list[tuple[int | None, int | None]]:
    """Return the parts of time in order, as start and end; None: unbounded.

    `cuts`: further moments at which a part ends.
    """
    ends = {lot.expires_ms for lot in lots if lot.expires_ms is not None}
    moments: list[int | None] = [None, *sorted({lot.begins_ms for lot in lots} | ends | set(cuts)), None]
    return list(pairwise(moments))


def merged(lots: Sequence[Lot], uses: Uses, cut: Sequence[tuple[int | None, int | None]]) -> Uses:
    """Return the use in each of the `parts` of these lots.

    `uses`: the use in each part of the finer cut `cut`.
    """
    found: dict[int, dict[str | None, int]] = defaultdict(lambda: defaultdict(int))
    starts = [start for start, _ in parts(lots)]
    at = 0
    for number, (start_ms, _) in enumerate(cut):
        if at + 1 < len(starts) and starts[at + 1] == start_ms:
            at += 1
        for feature, amount in uses.get(number, {}).items():
            found[at][feature] += amount
    return found


def allocate(lots: Sequence[Lot], uses: Uses, now_ms: int) -> Allocation:
    """Return the payment of each lot for the use in each of their `parts`.

    A lot does not pay with credit that was taken back, or before its start.
    """
    begins: dict[int, list[Lot]] = defaultdict(list)
    ends: dict[int, list[Lot]] = defaultdict(list)
    for lot in lots:
        if lot.begins_ms <= now_ms:
            begins[lot.begins_ms].append(lot)
        if lot.begins_ms <= now_ms and lot.expires_ms is not None and lot.begins_ms < lot.expires_ms:
            ends[lot.expires_ms].append(lot)
    found = Allocation(dict.fromkeys((lot.lot for lot in lots), 0))
    left = {lot.lot: lot.amount_micro - lot.taken_micro for lot in lots}
    open_lots: list[Lot] = []
    payers: Counter[str] = Counter()
    for number, (start_ms, _) in enumerate(parts(lots)):
        if start_ms is not None:
            for lot in ends.get(start_ms, ()):
                payers.subtract(lot.features or () if left[lot.lot] else ())
            for lot in begins.get(start_ms, ()):
                insort(open_lots, lot, key=lambda one: one.turn)
                payers.update(lot.features or () if left[lot.lot] and not lot.is_over(start_ms) else ())
        for feature, amount in uses.get(number, {}).items():
            if amount < 0:
                found.back -= amount
            elif amount:
                found.unpaid[feature] = found.unpaid.get(feature, 0) + amount
        if found.back:
            later = {name for name in found.unpaid if name and payers[name] > 0}
            found.back -= _pay(found.unpaid, found.back, found.unpaid, later)
        if start_ms is not None and found.unpaid:
            _draw(open_lots, left, found, payers, start_ms)
    return found


def _draw(open_lots: list[Lot], left: dict[str, int], found: Allocation, payers: Counter[str], moment_ms: int) -> None:
    """Let lots pay owed use in their order, and drop those that ended or are empty.

    `payers`: by feature, how many restricted lots have credit. A lot that was visited and has credit left has paid all
    of its features. So for the features that are still owed, the other lots come later.
    """
    kept, met = [], 0
    for lot in open_lots:
        if not found.unpaid:
            break
        met += 1
        if lot.is_over(moment_ms):
            continue
        had = left[lot.lot]
        payable: Collection[str | None] = found.unpaid if lot.features is None else lot.features
        itself = 0 if lot.features is None or not had else 1
        before = found.unpaid.get(TAKEN, 0)
        paid = _pay(found.unpaid, had, payable, {name for name in payable if name and payers[name] > itself})
        found.taken_back[lot.lot] += before - found.unpaid.get(TAKEN, 0)
        left[lot.lot] -= paid
        found.used[lot.lot] += paid
        if left[lot.lot]:
            kept.append(lot)
        elif had:
            payers.subtract(lot.features or ())
    open_lots[:met] = kept


def _pay(owed: dict[str | None, int], room: int, payable: Collection[str | None], later: Collection[str] = ()) -> int:
    """Pay owed use up to `room`, and return the payment.

    First comes use that no later restricted lot can pay: use without a feature, then credit that was taken back, then
    features by name. Features that a later lot can pay (`later`) come last. So the names of features do not decide the
    customer's debt.
    """
    before = room
    order = {name: (name in later, name is not None, name or "") for name in set(payable) & owed.keys()}
    for feature in sorted(order, key=lambda name: order[name]):
        paid = min(room, owed[feature])
        room -= paid
        owed[feature] -= paid
        if not owed[feature]:
            del owed[feature]
    return before - room
