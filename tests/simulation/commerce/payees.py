"""Who pays suppliers: terms, freezes, reversals, and batches whose files are handed over.

Guarantee: what a batch may hold is worked out from runs' ends, terms and reversals as they were said.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.payouts import Payout
from drawdown.ledger.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.units import DAY_MS
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.settlements.lists import Line, lines_of
from tests.simulation.commerce.books import month_of
from tests.simulation.commerce.calling import Shop
from tests.simulation.commerce.products import SUPPLIERS
from tests.stateful.settlements import Owed, Taken

TERMS: Final = {
    "firm": Change(700_000, 35 * DAY_MS, 20_000, False),
    "loose": Change(333_333, DAY_MS, 0, True),
}
SHARES: Final = (0, 333_333, 500_001, 1_000_000)


def set_terms(shop: Shop) -> str:
    """Another share, for runs that end from now on."""
    supplier, share = shop.rng.choice(SUPPLIERS), shop.rng.choice(SHARES)
    shop.call(
        f"share of {supplier}",
        lambda c, by: settlements.set_supplier(c, supplier, Change(share), by),
        lambda answer: bool(answer[0].revision == answer[1].revision),
        later=False,
    )
    was = shop.books.terms[supplier]
    shop.books.terms[supplier] = Change(share, was.hold_ms, was.threshold_micro, was.takes_clawbacks)
    return f"{supplier} gets {share} ppm from now on"


def freeze(shop: Shop) -> str | None:
    """A supplier, or one of its settlements, is frozen, or goes on."""
    if shop.rng.random() < 0.4:
        supplier = shop.rng.choice(SUPPLIERS)
        return freeze_supplier(shop, supplier, undo=supplier in shop.books.frozen)
    if not shop.books.owed:
        return None
    key = shop.rng.choice(sorted(shop.books.owed))
    return freeze_one(shop, key, undo=shop.books.owed[key].frozen)


def freeze_supplier(shop: Shop, supplier: str, *, undo: bool) -> str:
    act = partial(_freeze_supplier, supplier=supplier, undo=undo)
    shop.call(f"freeze {supplier}", act, lambda answer: answer is False, later=False)
    (shop.books.frozen.discard if undo else shop.books.frozen.add)(supplier)
    shop.note("frozen")
    return f"{supplier} is {'free' if undo else 'frozen'}"


def freeze_one(shop: Shop, key: str, *, undo: bool) -> str:
    act = partial(_freeze_one, key=key, undo=undo)
    answer = shop.call(f"freeze {key}", act, lambda answer: answer[1] is False, later=False)
    if isinstance(answer, Denied):
        if answer.code != "released" or shop.books.owed[key].batch is None:
            shop.breach(f"a freeze of {key} was refused: {answer}")
        return f"freeze {key}: {answer.code}"
    shop.books.owed[key].frozen = not undo
    shop.note("frozen")
    return f"the settlement of {key} is {'free' if undo else 'frozen'}"


def _freeze_supplier(connection: sa.Connection, by: By, supplier: str, undo: bool) -> Any:
    return settlements.freeze_supplier(connection, supplier, by, undo=undo)


def _freeze_one(connection: sa.Connection, by: By, key: str, undo: bool) -> Any:
    return settlements.freeze(connection, key, by, undo=undo)


def reverse(shop: Shop) -> str | None:
    """A part of what a supplier is owed, or was paid, is not owed after all."""
    left = [key for key, one in sorted(shop.books.owed.items()) if one.left]
    if not left:
        return None
    paid = [key for key in left if shop.books.owed[key].batch is not None]
    left = paid if paid and shop.rng.random() < 0.5 else left
    key, name = shop.rng.choice(left), shop.name("reversal")
    one = shop.books.owed[key]
    amount = max(shop.rng.choice((one.left, one.left // 3, 1)), 1)
    answer = shop.call(
        f"reverse {key}",
        lambda c, by: settlements.reverse(c, key, name, amount, by),
        lambda answer: bool(answer.repeated),
    )
    if isinstance(answer, Denied):
        if answer.code != "no_clawbacks" or one.batch is None or one.gives:
            shop.breach(f"{amount} of {one} cannot be reversed: {answer}")
        return f"reverses {amount} of {key}: {answer.code}"
    one.taken[name] = Taken(amount, one.batch is not None)
    shop.note("clawed_back" if one.batch else "reversed")
    return f"reverses {amount} of {key}"


def release(shop: Shop) -> str:
    """This month's batch of a supplier."""
    return release_of(shop, shop.rng.choice(SUPPLIERS))


def release_of(shop: Shop, supplier: str) -> str:
    month = month_of(shop.now)
    work = partial(_batch, supplier=supplier, month=month)
    answer = shop.call(f"the batch of {supplier} in {month}", work, lambda answer: bool(answer[0][1]))
    if isinstance(answer, Denied):
        if answer.code == "frozen_supplier" and supplier in shop.books.frozen:
            return f"no batch of {supplier}: frozen"
        waits = _total(shop, supplier)
        if answer.code != "below_threshold" or waits > max(_thresholds(shop, supplier)):
            shop.breach(f"no batch of {supplier}, of whom {waits} are to be released: {answer}")
        return f"no batch of {supplier}: {answer.code}"
    (made, repeated), lines = answer
    name = f"payout:{supplier}:{month}"
    if repeated is not (name in shop.books.files):
        shop.breach(f"{name} was {'' if repeated else 'not '}made before, by its answer")
    if name in shop.books.files:
        if shop.books.files[name] != lines:
            shop.breach(f"the file of {name} is another one by now")
        return f"{name} is handed over again"
    _hand_over(shop, supplier, made, lines)
    return f"{name} comes to {made.total_micro}"


def _batch(connection: sa.Connection, by: By, supplier: str, month: str) -> tuple[tuple[Payout, bool], list[Line]]:
    done = settlements.make_payout(connection, supplier, month, by)
    return done, list(lines_of(connection, done[0].payout))


def _eligible(shop: Shop, supplier: str) -> dict[str, Owed]:
    if supplier in shop.books.frozen:
        return {}
    mine = {key: one for key, one in shop.books.owed.items() if one.supplier == supplier and one.batch is None}
    return {
        key: one for key, one in mine.items() if not one.frozen and one.until <= shop.now and (one.left or not one.net)
    }


def _claws(shop: Shop, supplier: str) -> dict[tuple[str, str], Taken]:
    those = [(key, one) for key, one in shop.books.owed.items() if one.supplier == supplier]
    taken = {(key, name): take for key, one in those for name, take in one.taken.items()}
    return {place: take for place, take in taken.items() if take.clawback and take.batch is None}


def _total(shop: Shop, supplier: str) -> int:
    claws = sum(take.amount for take in _claws(shop, supplier).values())
    return sum(one.left for one in _eligible(shop, supplier).values()) - claws


def _thresholds(shop: Shop, supplier: str) -> list[int]:
    return [int(shop.books.terms[supplier].threshold_micro or 0)]


def _hand_over(shop: Shop, supplier: str, made: Payout, lines: list[Line]) -> None:
    """Its lines are what is eligible by now, less what was clawed back, each once."""
    free, claws = _eligible(shop, supplier), _claws(shop, supplier)
    want = sorted((key, one.left) for key, one in free.items() if one.left)
    got = sorted((one.reservation, one.amount_micro) for one in lines if one.reversal is None and one.amount_micro)
    if got != want:
        shop.breach(f"{made.payout} releases {got}, and {want} are to be released")
    back = sorted((key, -take.amount) for (key, _), take in claws.items())
    took = sorted((one.reservation, one.amount_micro) for one in lines if one.reversal is not None)
    if took != back:
        shop.breach(f"{made.payout} takes {took} off, and {back} were clawed back")
    for key in free:
        free[key].batch = made.payout
    for take in claws.values():
        take.batch = made.payout
    shop.books.files[made.payout] = lines
    shop.note("batch")
