"""What counts as accepted of a customer, beside what was drawn on a balance and what a person charged.

Guarantee: in credits each push counts at the cost of its own charge. Where costs changed and nothing tells which of
them a push would have seen, it has a least and a most.
"""

from __future__ import annotations

from collections.abc import Iterator

from drawdown.worker.engine.effects import CLOCKS_APART_MS
from tests.simulation.pooled import CREDITS, Span
from tests.simulation.remote import Autumn, Remote
from tests.simulation.world import World

_PUSHES = """
SELECT feature, sent_qty, key, COALESCE(wire_key, key), COALESCE(first_attempt_ms, 0), COALESCE(settled_ms, :now)
FROM pushes WHERE provider = :provider AND customer_id = :customer AND state = 'accepted'
"""
_RESOLVED = "SELECT customer_id, feature, key, sent_qty FROM pushes WHERE provider = :name AND state = 'accepted'"


def worth(remote: Remote, feature: str, sent: int, wire_key: str, from_ms: int, to_ms: int) -> Span:
    """What a push came to, by clocks that may be wrong."""
    return remote.worth(feature, sent, wire_key, from_ms - CLOCKS_APART_MS, to_ms + CLOCKS_APART_MS)


def _accepted(world: World, autumn: Autumn, provider: str, customer: str, balance: str) -> Iterator[Span]:
    rows = world.rows(_PUSHES, provider=provider, customer=customer, now=world.time.now)
    for feature, sent, key, wire_key, from_ms, to_ms in rows:
        apart = autumn.pooled is not None and key in world.resolved
        if autumn.place(customer, feature) == (customer, balance) and not apart:
            yield worth(autumn, feature, sent, wire_key, from_ms, to_ms)


def undrawn(world: World, autumn: Autumn, provider: str, customer: str, balance: str) -> Span:
    """What counts as accepted, and was neither drawn nor charged by hand. In credits, what a person charged of a push
    that could not be sent stands apart, with that push."""
    found = list(_accepted(world, autumn, provider, customer, balance))
    by_hand = sum(n for (*whose, _), n in world.by_hand.items() if tuple(whose) == (provider, customer, balance))
    gone = autumn.drawn(customer, balance) + by_hand
    return sum(least for least, _ in found) - gone, sum(most for _, most in found) - gone


def hidden(world: World, autumn: Autumn, provider: str, customer: str, balance: str) -> int:
    """How much of what was lost over there nothing shows: as much as charges may have drawn less, that were made while
    their cost changed, as far as its provider told. Of credits that begin anew nothing tells what was drawn from other
    parts before, so that what was lost by the first comparison of a cycle stays unseen. No more in all than was
    lost."""
    if autumn.pooled is None:
        return 0
    if autumn.pooled.shown(customer) is None:
        return world.unseen.get((provider, customer, balance), (0, 0))[1]
    doubt = 0
    named = {"provider": provider, "customer": customer, "apart": CLOCKS_APART_MS}
    for quantity, feature, began_ms, ended_ms in world.rows(_WHILE_IT_CHANGED, **named):
        least, most = autumn.pooled.spans(feature, quantity, began_ms - CLOCKS_APART_MS, ended_ms + CLOCKS_APART_MS)
        doubt += most - least
    return min(doubt, autumn.lost_of(customer, balance))


def note_compared(world: World) -> None:
    """After a comparison: how much was lost of a balance by the first one of its cycle."""
    marks = {(provider, customer, balance): since_ms for provider, customer, balance, since_ms in world.rows(_MARKS)}
    for place in [one for one, (since_ms, _) in world.unseen.items() if marks.get(one) != since_ms]:
        del world.unseen[place]
    for place in sorted(marks.keys() - world.unseen.keys()):
        remote = world.remote.get(place[0])
        if isinstance(remote, Autumn) and remote.pooled is not None:
            world.unseen[place] = marks[place], remote.lost_of(*place[1:])


_MARKS = "SELECT provider, customer_id, feature, since_ms FROM balance_marks WHERE feature = 'credits'"
_WHILE_IT_CHANGED = """
SELECT p.sent_qty, p.feature, MIN(r.confirmed_ms), MAX(r.at_ms)
FROM pushes p JOIN provider_rates r ON r.provider = p.provider AND r.feature = p.feature AND r.balance = 'credits'
    AND r.confirmed_ms - :apart <= p.settled_ms AND r.at_ms + :apart > p.first_attempt_ms
WHERE p.provider = :provider AND p.customer_id = :customer AND p.state = 'accepted'
GROUP BY p.window_ms, p.org_id, p.feature, p.revision, p.sent_qty
"""


def by_hand_apart(world: World, provider: str) -> Iterator[tuple[str, str, int]]:
    """Customer, feature and how much less a person charged of pushes that could not be sent than was theirs."""
    sums: dict[tuple[str, str], int] = {}
    for customer, feature, key, sent in world.rows(_RESOLVED, name=provider):
        if key in world.resolved:
            sums[(customer, feature)] = sums.get((customer, feature), 0) + sent
    for (name, customer, feature, _), quantity in world.by_hand.items():
        if name == provider and feature != CREDITS:
            sums[(customer, feature)] = sums.get((customer, feature), 0) - quantity
    yield from ((*place, quantity) for place, quantity in sorted(sums.items()) if quantity)
