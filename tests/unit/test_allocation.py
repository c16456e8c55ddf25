"""Which lot pays for what: the pure part."""

from __future__ import annotations

import time

from drawdown.ledger.allocation import TAKEN, Lot, Uses, allocate, parts
from tests.cases import cases


def lot(name: str, amount: int, begins: int = 0, ends: int | None = None, **more: object) -> Lot:
    given: dict[str, object] = {"kind": "purchased", "priority": 50, "features": None, **more}
    return Lot(
        lot=name, customer_id="c", amount_micro=amount, begins_ms=begins, expires_ms=ends, at_ms=0, actor="a",
        reason="r", **given,  # type: ignore[arg-type]
    )  # fmt: skip


def test_lot_starts_and_ends_split_time() -> None:
    assert parts([]) == [(None, None)]
    assert parts([lot("a", 1, 10, 20), lot("b", 1, 20)]) == [(None, 10), (10, 20), (20, None)]


IN_TURN = [
    lot("first", 9, priority=1),
    lot("ends soon", 9, ends=5),
    lot("ends later", 9, ends=6),
    lot("restricted", 9, features=("x",)),
    lot("began before", 9, begins=1),
    lot("began later", 9, begins=2),
    lot("began later, b", 9, begins=2),
    lot("last", 9, ends=3, priority=60),
]


@cases("shift", range(len(IN_TURN)))
def test_lots_are_used_in_order_of_turn(shift: int) -> None:
    mixed = IN_TURN[shift:] + IN_TURN[:shift]
    assert [one.lot for one in sorted(mixed, key=lambda one: one.turn)] == [one.lot for one in IN_TURN]


NOW = 10**6
A, B = lot("a", 10, 0, 100), lot("b", 10, 50)
CASES: dict[str, tuple[list[Lot], Uses, dict[str, int], dict[str | None, int], int]] = {
    "nothing": ([A, B], {}, {"a": 0, "b": 0}, {}, 0),
    "the one that ends first": ([A, B], {2: {None: 4}}, {"a": 4, "b": 0}, {}, 0),
    "the next one pays the rest": ([A, B], {2: {None: 14}}, {"a": 10, "b": 4}, {}, 0),
    "what nobody pays is owed": ([A, B], {2: {None: 34}}, {"a": 10, "b": 10}, {None: 14}, 0),
    "who is over pays no more": ([A, B], {3: {None: 4}}, {"a": 0, "b": 4}, {}, 0),
    "a later lot pays what is owed": ([A, B], {1: {None: 14}}, {"a": 10, "b": 4}, {}, 0),
    "before the first there is none": ([A, B], {0: {None: 4}}, {"a": 4, "b": 0}, {}, 0),
    "given back pays later use first": ([A, B], {1: {"x": -3}, 3: {None: 4}}, {"a": 0, "b": 1}, {}, 0),
    "given back and never used": ([A, B], {1: {"x": -3}}, {"a": 0, "b": 0}, {}, 3),
    "given back pays what is owed": ([A], {2: {None: 3, "x": -2}}, {"a": 0}, {None: 1}, 0),
    "a restricted one pays for its features": (
        [lot("r", 10, features=("x",)), lot("f", 10)], {1: {None: 1, "x": 4, "y": 2}}, {"r": 4, "f": 3}, {}, 0),
    "a restricted one alone": ([lot("r", 10, features=("x",))], {1: {None: 1, "y": 2}}, {"r": 0}, {None: 1, "y": 2}, 0),
    "what has no feature comes first": (
        [lot("f", 4, priority=1), lot("r", 10, features=("x",))], {1: {None: 4, "x": 4}}, {"f": 4, "r": 4}, {}, 0),
    "what no restricted lot behind pays comes first": (
        [lot("f", 4, priority=1), lot("r", 10, features=("x",))], {1: {"x": 4, "y": 4}}, {"f": 4, "r": 4}, {}, 0),
    "whatever its name": (
        [lot("f", 4, priority=1), lot("r", 10, features=("y",))], {1: {"x": 4, "y": 4}}, {"f": 4, "r": 4}, {}, 0),
    "a restricted one before another": (
        [lot("q", 4, priority=1, features=("x", "y")), lot("r", 10, features=("x",))], {1: {"x": 4, "y": 4}},
        {"q": 4, "r": 4}, {}, 0),
    "a restricted one that is used up waits for nobody": (
        [lot("f", 4, priority=2), lot("r", 3, priority=1, features=("x",))], {1: {"x": 4, "y": 4}},
        {"f": 4, "r": 3}, {"y": 1}, 0),
    "what was taken back pays nothing": ([lot("a", 10, taken_micro=7)], {1: {None: 5}}, {"a": 3}, {None: 2}, 0),
}  # fmt: skip


@cases("name", CASES)
def test_allocation_is_independent_of_lot_order(name: str) -> None:
    lots, uses, used, owed, back = CASES[name]
    for order in (lots, lots[::-1]):
        found = allocate(order, uses, NOW)
        assert (found.used, found.unpaid, found.back) == (used, owed, back)
        total = sum(amount for part in uses.values() for amount in part.values())
        assert sum(found.used.values()) == total - sum(found.unpaid.values()) + found.back


def test_allocation_reports_credit_taken_back_separately() -> None:
    """It comes after what has no feature, and before what has one; what no lot paid of it is owed."""
    found = allocate([lot("f", 10, priority=1), lot("g", 5)], {1: {"x": 9, TAKEN: 7, None: 2}}, NOW)
    assert (found.used, dict(found.taken_back), found.unpaid) == ({"f": 10, "g": 5}, {"f": 7, "g": 0}, {"x": 3})
    found = allocate([lot("r", 10, features=("x",))], {1: {TAKEN: 4}}, NOW)
    assert (found.used, found.unpaid) == ({"r": 0}, {TAKEN: 4})


@cases(("now", "used", "owed"), [(49, 0, 4), (50, 4, 0)])
def test_lot_is_used_only_after_its_start(now: int, used: int, owed: int) -> None:
    lots = [lot("a", 10, 0, 10), B]
    found = allocate(lots, {0: {None: 10}, 2: {"x": 4}}, now)
    assert parts(lots) == [(None, 0), (0, 10), (10, 50), (50, None)]
    assert (found.used, sum(found.unpaid.values())) == ({"a": 10, "b": used}, owed)


def test_allocation_of_ten_thousand_lots_is_fast() -> None:
    lots = [lot(f"{number:05}", 10, number, number + 40 if number % 2 else None) for number in range(10_000)]
    uses: Uses = {number: {None: 7, "x": 3} for number in range(len(parts(lots)))}
    began = time.monotonic()
    found = allocate(lots, uses, NOW)
    assert time.monotonic() - began < 20, "0.3 s on an idle core"
    assert sum(found.used.values()) + sum(found.unpaid.values()) == 10 * len(uses)
