"""Which of some absent pushes a balance was drawn on by."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.worker.push.evidence import Accounted, Level, can_be_zero, charged_among, is_only_choice
from tests.cases import cases


@cases(
    ("quantities", "least", "most", "unsure", "charged"),
    [
        ([60], 60, 60, 0, {0}),
        ([60], 0, 0, 0, set()),
        ([60, 7], 7, 7, 0, {1}),
        ([60, 7], 67, 67, 0, {0, 1}),
        ([60, 7], 0, 6, 6, set()),
        ([60, 7], -6, 0, 6, set()),
        ([60, 7], -3, 3, 6, None),
        ([60, 7], 0, 7, 7, None),
        ([60], 59, 59, 0, None),
        ([-60], -60, -60, 0, {0}),
        ([60, -7], 53, 53, 0, {0, 1}),
        ([60, -7], 60, 60, 0, {0}),
    ],
)
def test_balance_shows_which_absent_pushes_were_charged(
    quantities: Sequence[int], least: int, most: int, unsure: int, charged: set[int] | None
) -> None:
    """`unsure`: an amount that is in the balance or not."""
    assert charged_among(quantities, least, most, lambda found: 0 in (found, found + unsure)) == charged


def test_part_of_many_different_pushes_may_equal_draw_by_chance() -> None:
    """Seed 834649: a part of a balance was used up exactly before a read showed it, so that a push of 448 looked like
    388. Among 55 pushes, four came to that."""
    some = [2**place for place in range(12)]
    assert charged_among(some[:10], 388, 388, lambda _: False) == frozenset({2, 7, 8})
    assert charged_among(some, 388, 388, lambda _: False) is None
    assert charged_among([60] * 500, 120, 120, lambda _: False) == frozenset({0, 1})
    for drawn, charged in ((0, range(0)), (sum(some), range(12))):
        assert charged_among(some, drawn, drawn, lambda _: False) == frozenset(charged)


def test_pushes_that_cancel_out_are_absent() -> None:
    assert charged_among([-1, 1], 0, 0, lambda _: False) == frozenset()


@cases(
    "now",
    [
        Accounted(apart=0, expired=(0, 5)),
        Accounted(apart=0, is_unmatched=True),
        Accounted(apart=0, repriced=(0, 5)),
        Accounted(is_range=True),
    ],
)
def test_amount_between_bounds_does_not_prove_absence(now: Accounted) -> None:
    with sa.create_engine("sqlite://").connect() as connection:
        assert not can_be_zero(connection, "fake", ("acme", "credits"), Level(0, None), now, 0)


@cases(
    ("quantities", "chosen", "only"),
    [
        ([60, 7], {0}, True),
        ([60, 60], {0}, False),
        ([60, 60], {0, 1}, True),
        ([60, 60], set(), True),
        ([60, 30, 30], {0}, False),
        ([60, -60], set(), False),
        ([60, 30, -60], {1}, False),
        ([2**place for place in range(30)], {3}, False),
        ([2**place for place in range(30)], set(), True),
    ],
)
def test_choice_of_charged_pushes_is_unique_only_without_equal_sums(
    quantities: Sequence[int], chosen: set[int], only: bool
) -> None:
    assert is_only_choice(quantities, chosen) == only
