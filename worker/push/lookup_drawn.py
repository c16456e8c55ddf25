"""Confirm, from the other side: customers' balances as evidence of pushes that no event shows.

Guarantee: at a provider that may charge without an event, a push is voided by absence only where the balance agrees
(P5). A push that the balance was drawn on for is accepted. Where the balance proves neither, a person decides. A push
that was never sent drew on nothing, whatever the balance shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Absent, Capabilities, LookupResult, ReadFailed
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.costs import Pools, read_pools
from drawdown.worker.engine.effects import Over, Steps, Transaction
from drawdown.worker.engine.waiting import MAX_BACKOFF_MS
from drawdown.worker.push.balances import (
    Accounted,
    Balances,
    CustomerPool,
    Level,
    charged_among,
    drawn_of,
    is_of_cycle,
    is_only_choice,
    read_accounted,
    read_balances,
)
from drawdown.worker.push.lost_charges import Shown, read_shown, unknown_of
from drawdown.worker.push.lost_revisions import Sought
from drawdown.worker.push.outcome import OTHERS, Adopt, Settlement, Void
from drawdown.worker.push.rows import PushRow

DRAWN: Final = "no event shows it, and the customer's balance was drawn on by it"
MOST_TOGETHER: Final = 1_000
"""What is claimed besides a batch, so that what one balance tells of is whole in it. A person settles what is more."""
MOST_WAITS: Final = 100
"""Lookups (a day of them or more) that a push waits for others of its customer, until a person is asked as well: the
others may be of an organisation that is stopped."""
UNTOLD: Final = (
    "absent, and the customer's balance does not tell whether it was charged: compare with their console, then "
    "`push resolve`"
)
BELOW: Final = (
    "the provider has none of it, or another quantity, and it lies below the floor, where nothing would be sealed in "
    "its place: settle it with the customer, then `push resolve --accepted`"
)
UNSENT: Final = "looked up and absent, and each attempt of it is proven not to have arrived"

End = Settlement | Adopt | Void


@dataclass(frozen=True)
class Weighed:
    """What was read of balances, and what stood beside them before; what events show of a lost span."""

    pools: Pools = field(default_factory=lambda: Pools(()))
    before: Mapping[CustomerPool, Accounted] = field(default_factory=dict)
    balances: Balances = field(default_factory=dict)
    shown: Mapping[CustomerPool, Shown] = field(default_factory=dict)


def weigh(
    provider: str,
    asked: Sequence[Sought],
    found: Sequence[LookupResult],
    asked_ms: int,
    capabilities: Capabilities,
    over: Over,
) -> Steps[Weighed]:
    """Ask for the balances of those customers of whom an absent push may have been charged without an event: the key is
    claimed over there, or it could not be applied any more. Not for what was never sent."""
    untold = [
        sought
        for sought, result in zip(asked, found, strict=True)
        if capabilities.drawn and isinstance(result, Absent) and sought.row.sent_qty and not sought.is_unsent
        if sought.row.claimed or asked_ms - sought.last_sent_ms >= capabilities.applied_within_ms
    ]
    if not untold:
        return Weighed()
    pools: Pools = yield Transaction("known_costs", partial(read_pools, provider=provider), rollback=True)
    pairs = {_pair(sought, pools) for sought in untold}
    before: dict[CustomerPool, Accounted] = yield Transaction(
        "confirm_accounted",
        partial(read_accounted, provider=provider, pairs=sorted(pairs), balances={}),
        rollback=True,
    )
    balances = yield from read_balances(provider, {customer for customer, _ in pairs}, asked_ms, over)
    shown = yield from read_shown(provider, asked, pairs, pools, balances, capabilities, over)
    return Weighed(pools, before, balances, shown)


def _pair(sought: Sought, pools: Pools) -> CustomerPool:
    return str(sought.row.customer_id), pools.of(str(sought.row.feature))


def _drew(sought: Sought, pools: Pools, now_ms: int) -> int | None:
    """What a push drew, if it was charged; None: its cost changed since it was first sent."""
    pool = pools.of(str(sought.row.feature))
    least, most = pools.weight_between(pool, str(sought.row.feature), sought.first_sent_ms, now_ms)
    return int(sought.row.sent_qty) * most if least == most else None


def ends_by_balance(
    connection: sa.Connection,
    provider: str,
    asked: Sequence[Sought],
    found: Sequence[LookupResult],
    ends: Sequence[End],
    weighed: Weighed,
    asked_ms: int,
    is_mine: Callable[[PushRow], bool],
) -> list[End]:
    """The ends of a batch, by what the balances say of the absent ones; the others' are as they were. `is_mine`:
    whether a push is claimed for this look-up still, and held so from then on.

    Of those that are decided together, voided or sent for the first time, the sum is enough. Where one is sent again,
    may still be applied, or is another worker's by now, it has to be told from each of the others. What may have been
    drawn in a lost history is not sent for the first time either, before the balance tells."""
    decided, groups = _grouped(asked, found, ends, weighed)
    pools = weighed.pools
    now = read_accounted(connection, provider=provider, pairs=list(groups), balances=weighed.balances)
    for pair, absent in groups.items():
        drawn = drawn_of(weighed.balances, pair)
        numbers = [number for number in absent if drawn is None or _tells_of(asked[number], drawn, now[pair])]
        drew = [_drew(asked[number], pools, asked_ms) for number in numbers]
        some = [quantity for quantity in drew if quantity is not None]
        # What is charged in its window under revisions of a lost history is drawn, though not called accepted yet (R1).
        lost = sum(
            other.quantity * pools.weight_between(pair[1], str(sought.row.feature), asked_ms, asked_ms)[1]
            for sought in asked
            if _pair(sought, pools) == pair
            for other in sought.others
        )
        unknown = unknown_of(connection, provider, pair, pools, weighed.shown.get(pair), lost)
        charged = None
        if some and len(some) == len(drew):
            charged = _charged(some, now[pair], weighed.before[pair], drawn, lost, unknown)
        together = all(_is_last_word(decided[number]) and is_mine(asked[number].row) for number in absent)
        if charged is not None and not together and not is_only_choice(some, charged):
            charged = None  # one alone may be charged after this
        unread = unknown is None or isinstance(weighed.balances.get(pair[0]), ReadFailed)
        whole = now[pair].open == len(absent) or len(absent) >= MOST_TOGETHER
        alone = whole and not unread and together
        drawn_on = set() if charged is None else {numbers[at] for at in charged}
        beyond_it = set(absent) - set(numbers)
        for number in absent:
            if number in drawn_on:
                decided[number] = Settlement("accepted", asked_ms, "drawn", DRAWN)
            elif _is_last_word(end := decided[number]):
                if charged is None or number in beyond_it:
                    decided[number] = _later(asked[number].row, asked_ms, alone=alone or number in beyond_it)
                elif isinstance(end, Void):
                    decided[number] = replace(end, evidence=f"{end.evidence}; the customer's balance agrees")
    return _above_floor([sought.row for sought in asked], decided, asked_ms)


def _tells_of(sought: Sought, drawn: Level, now: Accounted) -> bool:
    """Whether a balance could tell of a push at all: not of what may have been drawn in the cycle before, nor of what
    was lost (R1) and told a person since, as drawn by somebody else."""
    was_told = sought.loss is not None and bool(now.apart) and now.marked_ms >= sought.loss.from_ms
    return is_of_cycle(sought.first_sent_ms, drawn) and not was_told


def _is_last_word(end: End) -> bool:
    """Whether a push, were it not for the balance, would now be taken for one that never arrived."""
    return isinstance(end, Void) or (isinstance(end, Settlement) and end.never_sent)


def _grouped(
    asked: Sequence[Sought], found: Sequence[LookupResult], ends: Sequence[End], weighed: Weighed
) -> tuple[list[End], dict[CustomerPool, list[int]]]:
    """The ends as they are so far, and by customer and feature the places of those that a balance has to tell of."""
    decided = list(ends)
    groups: dict[CustomerPool, list[int]] = defaultdict(list)
    for number, (sought, result) in enumerate(zip(asked, found, strict=True)):
        if not isinstance(result, Absent) or not sought.row.sent_qty:
            continue
        if sought.is_unsent:
            if isinstance(end := decided[number], Void):
                decided[number] = replace(end, evidence=UNSENT)
        elif _pair(sought, weighed.pools) in weighed.before:
            groups[_pair(sought, weighed.pools)].append(number)
    return decided, groups


def _above_floor(rows: Sequence[PushRow], ends: Sequence[End], asked_ms: int) -> list[End]:
    """Below the floor nothing would be sealed in the place of what is voided: a person settles that."""
    below = Settlement("in_doubt", asked_ms + DAY_MS, "absent", BELOW)
    return [
        below if isinstance(end, Void | Adopt) and row.window_ms < row.floor_ms else end
        for row, end in zip(rows, ends, strict=True)
    ]


def _later(row: PushRow, asked_ms: int, *, alone: bool) -> Settlement:
    if alone:
        return Settlement("in_doubt", asked_ms + DAY_MS, "absent", UNTOLD)
    # All that wait for one another are due at the same moment: once looked up together, the balance tells of all.
    together_ms = asked_ms - asked_ms % MAX_BACKOFF_MS + MAX_BACKOFF_MS
    state = str(row.state) if row.lookups < MOST_WAITS else "in_doubt"
    return Settlement(state, together_ms, "absent", OTHERS)


def _charged(
    drew: Sequence[int], now: Accounted, before: Accounted, drawn: Level | None, lost: int, unknown: int | None
) -> frozenset[int] | None:
    """Which of these the balance was drawn on by. Beside others that are open it tells only where it shows nothing of
    any: what it shows may be theirs, in part or not at all (something else was lost over there, and this one drawn)."""
    if drawn is None or (now.sent, now.accepted) != (before.sent, before.accepted):
        return None
    found = now.beyond(drawn)
    if found is None:
        return None
    beyond = found[0] - lost, found[1] - lost
    if now.open > len(drew):
        cancels = now.open_above != 0 and now.open_below != 0
        return frozenset() if beyond == (0, 0) and not cancels else None
    return None if unknown is None else charged_among(drew, *(it - unknown for it in beyond))
