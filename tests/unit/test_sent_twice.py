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
        ([(60, 3)], 120, {0: 2}),
        ([(86_400, 1), (120, 9)], 70_001, None),
        ([(300, 1), (60, 1), (7, 2)], 67, {1: 1, 2: 1}),
        ([(250, 1), (150, 1), (150, 1)], 300, {1: 1, 2: 1}),
    ],
)
def test_pushes_sent_twice_are_identified_by_exact_amount(
    pushes: list[tuple[int, int]], amount: int, found: dict[int, int] | None
) -> None:
    assert sent_twice(pushes, amount) == found


def test_pushes_sent_twice_search_is_bounded() -> None:
    rng = random.Random(1)
    pushes = [(rng.randrange(10**6, 10**9), 3) for _ in range(500)]
    assert sent_twice(pushes, 10**11 + 1) is None
    twice = sent_twice([(one, 1) for one, _ in pushes], pushes[0][0])
    assert twice == {0: 1}
    assert MOST_SUMS <= 10_000
