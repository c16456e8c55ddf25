"""The end of lots.

Unused credit expires. If the plan allows it, a part of the month's credit rolls over into the next month.

Guarantee: this module is pure. The result is the difference from the amounts booked before. So late use refunds expired
credit, and takes it from rolled-over credit, as far as that credit remains. Executions keep the credit that they have
reserved. Months are corrected in order, because the rollover out of a month depends on the rollover into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from drawdown.ledger.allocation import DEFAULT_PRIORITY, Allocation, Lot, Uses, allocate, merged, parts
from drawdown.ledger.calendar import next_start, period_of

ROLLED_AT_ONCE: Final = 24
"""Months of one wallet's rollover that one transaction corrects."""
ROLLED_PRIORITY: Final = DEFAULT_PRIORITY - 1
"""The priority of rolled-over credit.

Rolled-over credit is used before the credit that the month itself includes.
"""


@dataclass(frozen=True)
class Closing:
    """The result of closing the lots of a wallet.

    `lots`: all lots after the closing, by key. `new`: the new lots among them. `deferred_micro`: the micro-credits that
    must still leave ended or rolled-over lots, but are reserved or used. `unfinished`: True if another call is needed.
    """

    lots: Mapping[str, Lot]
    new: Sequence[Lot]
    deferred_micro: int
    unfinished: bool


@dataclass
class Room:
    """A wallet's balance, and its reserved part, in micro-credits."""

    balance_micro: int
    held_micro: int


def unused_micro(lot: Lot, allocation: Allocation) -> int:
    """Return the unused credit of a lot, in micro-credits.

    Expired credit, and credit that was taken back, are excluded.
    """
    return lot.amount_micro - lot.taken_micro - lot.expired_micro - allocation.used[lot.lot]


def promised(amount_micro: int, balance_micro: int, held_micro: int) -> int:
    """Return the reserved part of an amount that is due to leave a wallet.

    Amounts are micro-credits. The part is at most `held_micro`, even if the balance is below zero.
    """
    return max(min(amount_micro + held_micro - balance_micro, held_micro, amount_micro), 0)


def cut_for(lots: Sequence[Lot]) -> list[tuple[int | None, int | None]]:
    """Return the finest parts of time.

    Parts also end where credit that these lots roll over ends.
    """
    ends = (lot.expires_ms for lot in lots if lot.part == "included")
    return parts(lots, {next_start(end) for end in ends if end is not None})


def close(lots: Sequence[Lot], uses: Uses, room: Room, over_ms: int, now_ms: int) -> Closing:
    """Close the lots of a wallet that ended by `over_ms`.

    `uses`: by the parts of `cut_for`. `room`: the wallet's balance, including the part of these lots that is not booked
    yet. The call changes the balance in `room` by the booked amounts.
    """
    cut, now = cut_for(lots), {lot.lot: lot for lot in lots}
    new: list[str] = []
    for _ in range(ROLLED_AT_ONCE):
        those = list(now.values())
        allocation = allocate(those, merged(those, uses, cut), now_ms)
        waits, rest = _expire(now, allocation, room, over_ms)
        changed, pending = _roll(now, allocation, rest, over_ms, now_ms, grows=not waits)
        if changed is None:
            break
        if changed.lot not in now:
            new.append(changed.lot)
            room.balance_micro += changed.amount_micro
        else:
            room.balance_micro -= changed.taken_micro - now[changed.lot].taken_micro
        now[changed.lot] = changed
    return Closing(now, [now[lot] for lot in new], waits + pending, changed is not None)


def leaves(lots: Sequence[Lot], uses: Uses, room: Room, now_ms: int) -> int:
    """Return the micro-credits of ended lots that must still leave a wallet.

    The amount is the remaining credit of these lots, less the part that rolls over. Credit that was booked before is
    not part of it. Credit that executions have reserved is part of it.

    `lots`: the lots after a closing with the same `uses`. `room`: the room after that closing, which does not change.
    """
    then = Room(room.balance_micro, 0)
    close(lots, uses, then, now_ms, now_ms)
    return max(room.balance_micro - then.balance_micro, 0)


def _expire(now: dict[str, Lot], allocation: Allocation, room: Room, over_ms: int) -> tuple[int, Room]:
    """Book the expired rest of ended lots.

    Return the amount that waits for executions, and the room as if all of the rest had left.
    """
    is_over = [lot for lot in now.values() if lot.is_over(over_ms)]
    waits, rest = 0, replace(room)
    for lot, wanted, booked in changes(is_over, allocation, room.balance_micro, room.held_micro):
        rest = Room(rest.balance_micro - wanted, rest.held_micro - (wanted - booked))
        waits += wanted - booked
        room.balance_micro -= booked
        now[lot.lot] = replace(lot, expired_micro=lot.expired_micro + booked)
    return waits, rest


def changes(
    is_over: Sequence[Lot], allocation: Allocation, balance_micro: int, held_micro: int
) -> list[tuple[Lot, int, int]]:
    """Return each ended lot, its remainder, and the part that is booked now.

    Amounts are micro-credits. A positive remainder expires. A negative remainder is a refund.

    The part that executions have reserved waits for the end of these executions.
    """
    wanted = [(lot, unused_micro(lot, allocation)) for lot in is_over]
    found = []
    for lot, amount in sorted(wanted, key=lambda one: (one[1] >= 0, one[0].expires_ms, one[0].lot)):
        waits = promised(amount, balance_micro, held_micro)
        found.append((lot, amount, amount - waits))
        balance_micro, held_micro = balance_micro - amount, held_micro - waits
    return found


def _roll(
    now: Mapping[str, Lot], allocation: Allocation, rest: Room, over_ms: int, now_ms: int, *, grows: bool
) -> tuple[Lot | None, int]:
    """Return the first lot to change or add, and the amount still to be taken back.

    With this lot, the rollover is correct. The amount (in micro-credits) stays in rolled-over lots for now, because it
    is used or reserved. While anything waits to expire (`grows` is false), no more credit rolls over.
    """
    pending = 0
    over = [lot for lot in now.values() if lot.part == "included" and lot.is_over(over_ms)]
    for end_ms in sorted({lot.expires_ms or 0 for lot in over}):
        sources = [lot for lot in over if lot.expires_ms == end_ms]
        rolled = [lot for lot in now.values() if lot.part == "rollover" and lot.begins_ms == end_ms]
        last = max(sources, key=lambda lot: (lot.begins_ms, lot.lot))
        target = rolls(sum(lot.expired_micro for lot in sources), last)
        less = sum(lot.amount_micro - lot.reduced_micro for lot in rolled) - target
        if less < 0 and grows:
            return _rolled(last, len(rolled), -less, now_ms), pending
        for lot in sorted(rolled, key=lambda one: one.turn, reverse=True):
            there = max(min(less, unused_micro(lot, allocation)), 0)
            taken = there - promised(there, rest.balance_micro, rest.held_micro)
            if taken:
                taken_micro, reduced_micro = lot.taken_micro + taken, lot.reduced_micro + taken
                return replace(lot, taken_micro=taken_micro, reduced_micro=reduced_micro), pending
        if less > 0 and not all(lot.is_over(over_ms) for lot in rolled):
            pending += less
    return None, pending


def rolls(expired_micro: int, last: Lot) -> int:
    """Return the rollover of a month's expired credit, in micro-credits.

    The terms of the last lot of the month decide.
    """
    if expired_micro <= 0 or expired_micro < last.rollover_min_micro:
        return 0
    return min(expired_micro, last.rollover_max_micro)


def _rolled(last: Lot, number: int, amount_micro: int, now_ms: int) -> Lot:
    """Return a lot of rolled-over credit for the month after another lot."""
    assert last.expires_ms is not None
    period = period_of(last.expires_ms)
    again = f":r{number}" if number else ""
    return replace(
        last,
        lot=f"rollover:{last.customer_id}:{period}{again}",
        amount_micro=amount_micro,
        priority=ROLLED_PRIORITY,
        begins_ms=last.expires_ms,
        expires_ms=next_start(last.expires_ms),
        at_ms=now_ms,
        actor="drawdown",
        reason=f"rolled over from {last.period}",
        expired_micro=0,
        taken_micro=0,
        expiries=0,
        takes=0,
        part="rollover",
        period=period,
    )
