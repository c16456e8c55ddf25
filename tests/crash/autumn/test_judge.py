"""The judge of the siege of Autumn: what was told has to be what some mishaps came to. Pure."""

from __future__ import annotations

from fractions import Fraction

from tests.crash.autumn.judge import MOST_SUMS, NEWER, Weighing

ZERO = Fraction(0)
LOST, DOUBLED = (Fraction(-3, 10), ZERO), (Fraction(1, 2), ZERO)
NEWER_LOST = (Fraction(-17, 200), Fraction(-100))
"""100 units of the changed feature at its new cost."""


def test_only_sums_of_mishaps_are_explained() -> None:
    weighing = Weighing([LOST, DOUBLED])
    explained = [weighing.explains(Fraction(tenths, 10), ZERO) for tenths in (0, -3, 5, 2, 3, -5, 8)]
    assert explained == [True, True, True, True, False, False, False]
    assert not weighing.explains(Fraction(1, 3), ZERO)


def test_units_of_the_changed_feature_count_at_the_cost_of_their_charge() -> None:
    weighing = Weighing([LOST, NEWER_LOST])
    assert weighing.explains(NEWER_LOST[0], 100 * NEWER)
    assert not weighing.explains(NEWER_LOST[0], ZERO), "told at the new cost, and lost at the old one"
    assert not weighing.explains(LOST[0], 100 * NEWER)


def test_too_many_mishaps_explain_whole_units_up_to_all_of_them() -> None:
    many = [(Fraction(-(2**place), 10**6), Fraction(-1)) for place in range(MOST_SUMS.bit_length() + 1)]
    weighing = Weighing(many)
    assert weighing.sums is None
    assert weighing.explains(Fraction(-1), len(many) * NEWER)
    assert not weighing.explains(Fraction(-1), (len(many) + 1) * NEWER)
    assert not weighing.explains(Fraction(-1), NEWER / 2)
