"""The proof that a customer's balance gives of pushes that no event shows (rule P5).

Guarantee: a balance decides only where it was read between two equal looks at the accepted pushes, so that nothing was
on its way meanwhile. Where a person's change of it, or another's use, leaves a doubt, the answer is None.

Autumn draws on a balance at once and stores the event later, or never (observed). So absence among events proves
nothing by itself. A top-up by `add_to_balance` looks like giving back. A mark keeps the difference between balance and
pushes at the last comparison, so that a difference told once counts no more. A top-up of just as much as was drawn
without an event, between two comparisons, cannot be seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Drawn, ReadFailed
from drawdown.schema.sql import queries
from drawdown.worker.engine.effects import Over, ReadDrawn, Steps, never
from drawdown.worker.engine.waiting import CLOCKS_APART_MS
from drawdown.worker.push.rows import Row

SQL = queries(__file__)

CustomerFeature = tuple[str, str]
"""Customer and feature, at one provider."""
Balances = Mapping[str, Mapping[str, Drawn] | ReadFailed]
"""What was read, by customer."""
CHUNK: Final = 200
"""Customers that are looked at together."""
MOST_SUMS: Final = 2_000
"""Where some pushes come to more different sums, it is not worked out which of them a balance was drawn on by."""

MOST_UNSURE: Final = 12
"""Pushes that are each in a balance or beside it; of more only the bounds are compared."""


@dataclass(frozen=True)
class Accounted:
    """What we call accepted of one customer and feature, in base units, in the present cycle of the balance."""

    org_id: str = ""
    """Whose push was settled last."""
    sent: tuple[int, int] = (0, 0)
    """How many attempts there were, and how many pushes are open: equal where nothing was sent or settled between two
    looks, as long as `accepted` is, too."""
    accepted: int = 0
    """What we call accepted, in all cycles."""
    ours: int = 0
    least: int = 0
    most: int = 0
    """The bounds of `ours`, as what was sent around the cycle's begin counts or not."""
    hand_above: int = 0
    hand_below: int = 0
    """The sums of what was billed, and credited, by hand since the balance was last compared: in it or beside it. What
    a person voided of what was to be given back counts as credited: a part of it may have been."""
    newest_ms: int = 0
    open: int = 0
    """Pushes that may have arrived, and are not settled."""
    open_above: int = 0
    open_below: int = 0
    """The sums of those that draw, and of those that give back."""
    apart: int | None = None
    """How far the balance was from `ours` when it was last compared in this cycle; None: it was not."""
    marked_ms: int = 0
    """When that was."""

    def beyond(self, drawn: Drawn) -> tuple[int, int] | None:
        """By how much, at least and at most, a balance was drawn on beyond what is accepted; None: it does not tell."""
        if self.apart is not None:
            beyond = drawn.quantity - self.ours - self.apart
            return beyond + self.hand_below, beyond + self.hand_above
        return (drawn.quantity - self.most, drawn.quantity - self.least) if drawn.whole else None


def read_accounted(
    connection: sa.Connection, *, provider: str, pairs: Collection[CustomerFeature], balances: Balances
) -> dict[CustomerFeature, Accounted]:
    """What stands beside each balance; before balances were read, for the look alone."""
    wanted = [
        {"customer_id": customer, "feature": feature, "since_ms": _since(balances.get(customer), feature)}
        for customer, feature in sorted(pairs)
    ]
    found = SQL.run(connection, "marks", {"provider": provider, "pairs": wanted})
    marks = {(row.customer_id, row.feature): (int(row.apart_qty), int(row.at_ms)) for row in found}
    marked = [
        {**pair, "mark_ms": marks.get((str(pair["customer_id"]), str(pair["feature"])), (0, 0))[1]} for pair in wanted
    ]
    by_pair: dict[CustomerFeature, list[Row]] = defaultdict(list)
    values = {"provider": provider, "pairs": marked, "apart_ms": CLOCKS_APART_MS}
    for row in SQL.run(connection, "accounted", values):
        by_pair[(row.customer_id, row.feature)].append(row)
    return {pair: _accounted(by_pair[pair], *marks.get(pair, (None, 0))) for pair in pairs}


def _accounted(rows: Sequence[Row], apart: int | None, marked_ms: int) -> Accounted:
    if not rows:
        return Accounted(apart=apart, marked_ms=marked_ms)

    def total(name: str) -> int:
        return sum(int(getattr(row, name)) for row in rows)

    newest = max(rows, key=lambda row: int(row.newest_ms))
    return Accounted(
        org_id=str(newest.org_id),
        sent=(total("attempts"), total("open")),
        accepted=total("accepted"),
        ours=total("ours"),
        least=total("least"),
        most=total("most"),
        hand_above=total("hand_above"),
        hand_below=total("hand_below"),
        newest_ms=int(newest.newest_ms),
        open=total("open"),
        open_above=total("open_above"),
        open_below=total("open_below"),
        apart=apart,
        marked_ms=marked_ms,
    )


def read_unsure(
    connection: sa.Connection, provider: str, pair: CustomerFeature, since_ms: int, now: Accounted
) -> list[int]:
    """The quantities of what is in a balance or beside it: what people billed and credited, and what was sent as its
    cycle began. At most MOST_UNSURE and one."""
    values = {
        "provider": provider,
        "customer_id": pair[0],
        "feature": pair[1],
        "since_ms": since_ms,
        "mark_ms": 0 if now.apart is None else now.marked_ms,
        "apart_ms": CLOCKS_APART_MS,
        "at_most": MOST_UNSURE + 1,
    }
    return [int(row.sent_qty) for row in SQL.run(connection, "unsure", values)]


def _since(balance: Mapping[str, Drawn] | ReadFailed | None, feature: str) -> int:
    drawn = None if balance is None or isinstance(balance, ReadFailed) else balance.get(feature)
    return 0 if drawn is None else drawn.since_ms or 0


def read_balances(provider: str, customers: Collection[str], over: Over = never) -> Steps[Balances]:
    """What customers' balances say was drawn; once time is `over`, that they were not read."""
    found: dict[str, Mapping[str, Drawn] | ReadFailed] = {}
    wanted = sorted(customers)
    for at in range(0, len(wanted), CHUNK):
        part = wanted[at : at + CHUNK]
        read: Sequence[Mapping[str, Drawn] | ReadFailed] = yield ReadDrawn(provider, part, over)
        found.update(zip(part, read, strict=True))
    return found


def drawn_of(balances: Balances, pair: CustomerFeature) -> Drawn | None:
    """What one balance says; None where it could not be read, or tells nothing of this feature."""
    balance = balances.get(pair[0])
    return None if balance is None or isinstance(balance, ReadFailed) else balance.get(pair[1])


def is_of_cycle(sent_ms: int, drawn: Drawn) -> bool:
    """Whether what was sent first at a time was drawn in a balance's present cycle, if at all, and not in the one
    before: of anything else the balance does not tell."""
    return drawn.since_ms is None or sent_ms >= drawn.since_ms + CLOCKS_APART_MS


def charged_among(quantities: Sequence[int], least: int, most: int) -> frozenset[int] | None:
    """Which of some pushes (their places) a balance was drawn on by, where it was drawn on by `least` to `most` for all
    of them; None: it does not tell. Where several sets come to the same, which it was makes no difference to what the
    customer pays, if all are settled now; else `is_only_choice` has to be asked. Where events show it later, reconcile
    weighs both windows together (`reconcile.weighing`)."""
    whole, draws = sum(quantities), all(quantity > 0 for quantity in quantities)
    if least == most == 0 or (draws and least <= 0 <= most < min(quantities)):
        return frozenset()  # also of such that cancel out: no event shows them, and the balance does not contradict
    if least == most == whole:
        return frozenset(range(len(quantities)))
    if least != most:
        return None
    chosen, left = set(), least
    for place in sorted(range(len(quantities)), key=lambda place: -abs(quantities[place])):
        if (quantities[place] > 0) == (left > 0) and abs(quantities[place]) <= abs(left):
            chosen.add(place)
            left -= quantities[place]
    return frozenset(chosen) if left == 0 else None


def is_only_choice(quantities: Sequence[int], chosen: Collection[int]) -> bool:
    """Whether no other set of these pushes comes to the same sum as the chosen places: then it is known of each of them
    whether the balance was drawn on by it, and not only of all together. Of too many, none is known."""
    if len(chosen) in (0, len(quantities)) and (min(quantities) > 0 or max(quantities) < 0):
        return True
    ways = {0: 1}
    for quantity in quantities:
        grown = dict(ways)
        for reached, count in ways.items():
            grown[reached + quantity] = min(2, grown.get(reached + quantity, 0) + count)
        if len(grown) > MOST_SUMS:
            return False
        ways = grown
    return ways[sum(quantities[place] for place in chosen)] == 1


@dataclass(frozen=True)
class Mark:
    """How far a balance is from what was pushed; `told`: how much of it a person is told now."""

    pair: CustomerFeature
    since_ms: int
    apart: int
    org_id: str
    told: int = 0


def remember(connection: sa.Connection, provider: str, marks: Sequence[Mark], now_ms: int) -> None:
    """Compare with this from now on. What a person was told and has not acknowledged adds up."""
    rows = [
        {
            "customer_id": mark.pair[0],
            "feature": mark.pair[1],
            "since_ms": mark.since_ms,
            "apart_qty": mark.apart,
            "org_id": mark.org_id,
            "told_qty": mark.told,
            "told_ms": now_ms if mark.told else None,
        }
        for mark in marks
    ]
    if rows:
        SQL.run(connection, "remember", {"marks": rows, "provider": provider, "at_ms": now_ms})


def own_up_to_lost(connection: sa.Connection, voided: Sequence[Row]) -> None:
    """A person says of pushes that were accepted that the provider lost them, under S1's lock. What a balance was told
    to lack is less by them: else what is drawn in their place would look as if they had been drawn after all."""
    lost: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for push in voided:
        lost[(str(push.provider), str(push.customer_id), str(push.feature))].append(push)
    rows = [
        {
            "provider": provider,
            "customer_id": customer,
            "feature": feature,
            "sent_qty": sum(int(push.sent_qty) for push in some),
            "settled_ms": max(int(push.settled_ms or push.sealed_at_ms) for push in some),
        }
        for (provider, customer, feature), some in lost.items()
    ]
    if rows:
        SQL.run(connection, "own_up_to_lost", {"lost": rows})
