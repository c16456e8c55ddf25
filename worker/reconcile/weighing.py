"""What a customer's balance tells of accepted pushes that no event shows (P5).

Guarantee: it tells nothing while a push is on its way. A push is taken for undrawn only where figures agree exactly;
where the balance was drawn on by more than is accounted for, a push stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.providers.protocol import ReadFailed
from drawdown.worker.catalog.costs import Pools
from drawdown.worker.push.balances import (
    Accounted,
    Balances,
    CustomerPool,
    Level,
    charged_among,
    drawn_of,
    read_accounted,
)
from drawdown.worker.push.rows import PushRow
from drawdown.worker.reconcile.short import Short


def drew(pools: Pools, push: PushRow) -> tuple[int, int]:
    """The least and the most that a base unit of an accepted push drew."""
    settled_ms = int(push.settled_ms or push.sealed_at_ms)
    pool = pools.of(str(push.feature))
    began_ms = int(push.first_attempt_ms or settled_ms)
    return pools.weight_between(pool, str(push.feature), began_ms, settled_ms, push.credit_cost)


def _standing(
    connection: sa.Connection,
    provider: str,
    pair: CustomerPool,
    before: Accounted,
    balances: Balances,
    taken_over: int,
) -> Accounted | None:
    """What stands beside a balance. None: it tells nothing yet, since it was not read, or a push was on its way."""
    now = read_accounted(connection, provider=provider, pairs=[pair], balances=balances)[pair]
    unread = isinstance(balances.get(pair[0]), ReadFailed)
    if unread or now.open or now.sent != before.sent or now.accepted != before.accepted - taken_over:
        return None
    return now


def _charged_of(quantities: Sequence[int], beyond: tuple[int, int], extra: int) -> frozenset[int] | None:
    """Which of the absent pushes the balance was drawn on by: they count as accepted still. None, too, where it was not
    drawn on by what events show too much of: that stands for a push of a day that is not compared now."""
    if not quantities:
        return frozenset() if beyond[1] >= extra else None
    if beyond[0] >= extra and all(quantity > 0 for quantity in quantities):
        return frozenset(range(len(quantities)))  # it covers them all, and perhaps what others drew besides
    of_absent = sum(quantities) - extra
    return charged_among(quantities, beyond[0] + of_absent, beyond[1] + of_absent)


def weighed(
    connection: sa.Connection,
    some: Sequence[Short],
    pair: CustomerPool,
    pools: Pools,
    before: Accounted | None,
    balances: Balances,
    absent: Sequence[PushRow],
    told: Sequence[bool],
    taken_over: int,
) -> frozenset[int] | None:
    """Which of the absent pushes (their places) the customer's balance was drawn on by, of those that it could have
    `told` of; None: it does not tell."""
    drawn = drawn_of(balances, pair)
    costs = [drew(pools, row) for row in absent]
    amounts = [int(row.sent_qty) * most for row, (_, most) in zip(absent, costs, strict=True)]
    extra = 0 if before is None else _extra(some, pools, drawn, sum(amounts))
    if before is None or not (absent or extra):
        return frozenset()
    unread = any(isinstance(read, ReadFailed) for short in some for read in short.by_window.values())
    now = None if unread else _standing(connection, some[0].line.provider, pair, before, balances, taken_over)
    beyond = None if now is None or drawn is None else now.beyond(drawn)
    if any(least != most or not most for least, most in costs):
        beyond = None  # it was sent while its cost changed, or drew on another balance: this one does not tell of it
    places = [place for place, is_told in enumerate(told) if is_told]
    quantities = [amounts[place] for place in places]
    among = None if beyond is None else _charged_of(quantities, beyond, extra)
    # A difference that was told a person may be what events show by now: then the figures agree for another reason.
    hidden = now is not None and 0 < extra <= (now.apart or 0)
    balanced = among is None and beyond == (0, 0) and not hidden
    among = frozenset(range(len(quantities))) if balanced else among
    # Covered is enough to stand. What others may have drawn besides could hide that it never was, or that something of
    # a day that is not compared never was, and that what events show too much of is what was drawn in its place: that
    # is given back only where nothing else was.
    besides = beyond is not None and beyond[0] > extra and (min(quantities) > 0 if quantities else extra > 0)
    besides = besides or len(places) < len(absent)
    for short in some:
        short.balanced, short.explained, short.moving = balanced, among is None or besides, now is None
    return None if among is None else frozenset(places[at] for at in among)


def _extra(some: Sequence[Short], pools: Pools, drawn: Level | None, absent: int) -> int:
    """What events show beyond what is accepted, where all of it lies in the balance's cycle and above the floor: it was
    drawn, and by none of the pushes that are absent. Where a list stood still, it showed neither of two pushes alike,
    and the balance may have proven the wrong one; the other's event comes late."""
    since = 0 if drawn is None else drawn.since_ms or 0
    floor = max((int(row.floor_ms) for short in some for row in short.rows), default=0)
    if any(short.line.from_ms < max(since, floor) for short in some):
        return 0
    shown = sum(
        (short.line.theirs - short.line.ours + short.corrected)
        * pools.weight_between(pools.of(short.line.feature), short.line.feature, short.line.from_ms, 2**62)[1]
        for short in some
    )
    return max(0, absent + shown)
