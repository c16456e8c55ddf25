"""Which pushes that were sent twice make up what was drawn too much."""

from __future__ import annotations

import random

from drawdown.worker.reconcile.balances import MOST_SUMS, sent_twice
from tests.cases import cases


@cases(
    ("pushes", "amount", "found"),
    [
        ([], 5, None),
        ([(60, 1)], 60, {0: 1}),
        ([(60, 1)], 59, None),
        ([(60, 1)], 61, None),
        ([(60, 1)], 120, None),
        ([(61_237, 3)], 122_474, {0: 2}),
        ([(300, 1), (300, 1), (300, 1)], 900, {0: 1, 1: 1, 2: 1}),
        ([(86_400, 1), (120, 9)], 70_001, None),
        ([(3_001, 1), (601, 1), (71, 2)], 672, {1: 1, 2: 1}),
        ([(2_507, 1), (1_501, 1), (1_501, 1)], 3_002, {1: 1, 2: 1}),
    ],
)
def test_pushes_sent_twice_are_identified_by_exact_amount(
    pushes: list[tuple[int, int]], amount: int, found: dict[int, int] | None
) -> None:
    assert sent_twice(pushes, amount) == found


@cases(
    ("pushes", "amount"),
    [
        ([(120_000, 1)] * 3, 240_000),
        ([(120_000, 1)] * 30, 3_000_000),
        ([(60, 3)], 120),
        ([(10_000 * size, 1) for size in range(1, 9)], 50_000),
    ],
)
def test_amount_equal_to_many_sums_does_not_prove_doubles(pushes: list[tuple[int, int]], amount: int) -> None:
    """Another program may have drawn such a round amount. Correct charges would then be given back."""
    assert sent_twice(pushes, amount) is None


def test_pushes_sent_twice_search_is_bounded() -> None:
    rng = random.Random(1)
    pushes = [(rng.randrange(10**6, 10**9), 3) for _ in range(500)]
    assert sent_twice(pushes, 10**11 + 1) is None
    twice = sent_twice([(one, 1) for one, _ in pushes], pushes[0][0])
    assert twice == {0: 1}
    assert MOST_SUMS <= 10_000
