"""What each provider truly charged, beside what was used.

Guarantee: "billed exactly once" is judged at the provider, not in our tables; where a provider takes whole units only,
or a person had to charge by hand, it is judged over all windows of a customer and feature.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.units import DAY_MS
from tests.simulation.accepted import by_hand_apart, hidden, undrawn
from tests.simulation.oracle import Expected
from tests.simulation.pooled import CREDITS
from tests.simulation.providers import AUTUMN, STRIPE, UNIT, WHOLE, Billed, billed_in_ledger, billed_in_memory
from tests.simulation.remote import METERS, Autumn, unit_at
from tests.simulation.world import World

Totals = dict[tuple[str, str], int]
"""(customer, feature) to a quantity."""


def billed(world: World, expected: Expected) -> Iterator[str]:
    """Every difference between what was charged and what was used."""
    for name in world.billing:
        got, want = _truth(world, name), _expected_at(world, expected, name)
        if name == WHOLE:
            yield from _whole_units(world, got, want)
        elif name in world.remote:
            yield from _remote(world, name, got, want)
        else:
            yield from _each_window(name, got, want)


def given_back(world: World) -> Iterator[str]:
    """At any moment: nobody was given back more of a window than was charged of it. Where whole units alone are taken,
    or a provider refuses late what it had charged, windows tell nothing of it."""
    for name in world.billing:
        if name == EMBEDDED or (name in world.memory and name != WHOLE):
            for place, quantity in sorted(_truth(world, name).items()):
                if quantity < 0:
                    yield f"2: {name} {place}: {-quantity} were given back that were not charged"


def _truth(world: World, provider: str) -> Billed:
    if provider == EMBEDDED:
        return world.read(billed_in_ledger)
    if provider in world.memory:
        return billed_in_memory(world.memory[provider])
    return world.remote[provider].billed(world.time.now)


def _expected_at(world: World, expected: Expected, provider: str) -> Billed:
    sums: Billed = defaultdict(int)
    for (org, window, feature), quantity in expected.owed.items():
        biller = world.oracle.assigned(org, window)
        assert biller is not None
        if biller.provider == provider:
            sums[(biller.customer, feature, window)] += quantity
    return sums


def _each_window(name: str, got: Billed, want: Billed) -> Iterator[str]:
    for place in sorted(got.keys() | want.keys()):
        if got.get(place, 0) != want.get(place, 0):
            yield f"billed: {name} {place}: charged {got.get(place, 0)}, used {want.get(place, 0)}"


def _in_total(found: Billed) -> Totals:
    sums: Totals = defaultdict(int)
    for (customer, feature, _), quantity in found.items():
        sums[(customer, feature)] += quantity
    return sums


def _carries(world: World, provider: str) -> dict[tuple[str, str], tuple[str, int]]:
    return {
        (customer, feature): (org, quantity)
        for org, customer, feature, quantity in world.rows(
            "SELECT org_id, customer_id, feature, carry_qty FROM carries WHERE provider = :name", name=provider
        )
    }


def _whole_units(world: World, got: Billed, want: Billed) -> Iterator[str]:
    """Where only whole units and no negatives are taken: the total, but for what stays below a unit."""
    charged, used, carries = _in_total(got), _in_total(want), _carries(world, WHOLE)
    for place in sorted(used.keys() | charged.keys() | carries.keys()):
        org, carry = carries.get(place, (place[0].removeprefix("c-"), 0))
        if charged[place] + carry != used[place]:
            yield f"billed: {WHOLE} {place}: charged {charged[place]} + carry {carry}, used {used[place]}"
        shrank = world.oracle.ever_gave_back(org) or (org, WHOLE, place[1]) in world.voided
        if carry >= UNIT or (carry < 0 and not shrank):
            yield f"billed: {WHOLE} {place}: a carry of {carry} should have been sent"


def _remote(world: World, name: str, got: Billed, want: Billed) -> Iterator[str]:
    """The total of each customer and feature; and each window, where nothing moved between windows: no unit above one,
    no key that was charged twice and given back in another window, nothing charged by hand."""
    autumn = world.remote[name]
    if isinstance(autumn, Autumn) and autumn.pooled is not None:
        yield from _in_credits(world, name, autumn, got, want)
        return
    charged, used, carries = _in_total(got), _in_total(want), _carries(world, name)
    again = _in_total(world.remote[name].given_back_again())
    doubled = world.remote[name].doubled()
    by_hand: Totals = defaultdict(int)
    for (provider, customer, feature, _), quantity in world.by_hand.items():
        by_hand[(customer, feature)] += quantity if provider == name else 0
    for place in sorted(used.keys() | charged.keys() | carries.keys()):
        carry, hand = carries.get(place, ("", 0))[1], by_hand.get(place, 0)
        yield from _carry_in_bounds(place, carry, name)
        have = charged[place] + carry + hand
        # What was given back twice is seen neither in events nor in a balance that may only have been topped up.
        if not used[place] + again.get(place, 0) <= have <= used[place]:
            yield (
                f"billed: {name} {place}: charged {charged[place]} + carry {carry} + by hand {hand}, used {used[place]}"
            )
    whole = {place for place in charged if place[1] in METERS and name == STRIPE} | set(by_hand)
    if name == AUTUMN and (doubled or world.remote[name].loses_data()):
        return
    lost = _lost(world, name)
    whole |= lost & _told_by_balance(world, name)
    some = [_by_day({p: q for p, q in found.items() if p[:2] not in whole}, lost) for found in (got, want)]
    yield from _each_window(name, some[0], some[1])


def _in_credits(world: World, name: str, autumn: Autumn, got: Billed, want: Billed) -> Iterator[str]:
    """Where one balance pays for all features: the total of each customer in credits, each charge at its own cost.
    Feature by feature, too, but for customers of whom the balance decided which push was charged: what they pay is the
    same, whichever it was. That all that was used counts as accepted, or is carried, is judged window by window."""
    charged, used, carries = _in_total(got), _in_total(want), _carries(world, name)
    again = _in_total(autumn.given_back_again())
    by_hand: Totals = defaultdict(int)
    for (provider, customer, feature, _), quantity in world.by_hand.items():
        by_hand[(customer, feature)] += quantity if provider == name else 0
    by_balance = autumn.told_in_sum() | autumn.doubled_places() | autumn.lost_places()
    for place in sorted(used.keys() | charged.keys() | carries.keys()):
        carry, hand = carries.get(place, ("", 0))[1], by_hand.get(place, 0)
        yield from _carry_in_bounds(place, carry, name)
        have = charged[place] + carry + hand
        if have != used[place] and place not in by_balance:
            yield (
                f"billed: {name} {place}: charged {charged[place]} + carry {carry} + by hand {hand}, used {used[place]}"
            )
    for customer in sorted({one for one, _ in used.keys() | charged.keys()}):
        least, most = undrawn(world, autumn, name, customer, CREDITS)
        unseen = max(-again.get((customer, CREDITS), 0), hidden(world, autumn, name, customer, CREDITS))
        if most < 0 or least > unseen:
            yield f"billed: {name} {customer}: {least} to {most} grains of a credit more count as charged than were"
    for customer, feature, quantity in by_hand_apart(world, name):
        yield f"billed: {name} {customer} {feature}: {quantity} of what could not be sent were not charged by hand"


def _carry_in_bounds(place: tuple[str, str], carry: int, name: str) -> Iterator[str]:
    """Both take negatives, so a seal leaves 0 <= carry < unit, also where a void took out what its push left over."""
    unit = unit_at(name, place[1])
    if not 0 <= carry < unit:
        yield f"billed: {name} {place}: a carry of {carry}, with units of {unit}"


def _lost(world: World, name: str) -> set[tuple[str, str]]:
    """(customer, feature) of what was accepted there, and is charged nothing: where two such cancel out in a day, its
    sum is right and nobody can tell."""
    taken = world.remote[name].taken()
    rows = world.rows("SELECT COALESCE(wire_key, key), customer_id, feature FROM pushes WHERE provider = :p", p=name)
    return {(customer, feature) for key, customer, feature in rows if key in taken}


def _told_by_balance(world: World, name: str) -> set[tuple[str, str]]:
    """(customer, feature) of what counts as given back by the balance alone, and never was. A balance knows no days:
    what was lost on one may have stood for it on another. The customer pays what was used, which the total shows."""
    charged = world.charged()
    rows = world.rows(
        "SELECT COALESCE(wire_key, key), customer_id, feature FROM pushes WHERE provider = :p AND state = 'accepted' "
        "AND sent_qty < 0",
        p=name,
    )
    return {(customer, feature) for key, customer, feature in rows if key not in charged}


def _by_day(found: Billed, these: set[tuple[str, str]]) -> Billed:
    """With one sum a day for `these`, and one a window for all others."""
    sums: Billed = defaultdict(int)
    for (customer, feature, window), quantity in found.items():
        place = (customer, feature, window - window % DAY_MS if (customer, feature) in these else window)
        sums[place] += quantity
    return sums
