"""The judge of the siege of Autumn: what was told has to be what some mishaps came to."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from drawdown.providers.protocol import Rejected
from drawdown.schema.database import write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.adopt import adopt_excess
from drawdown.worker.push.evidence import Mark, write_marks
from drawdown.worker.push.rows import find_push
from tests.crash.autumn.judge import (
    MOST_SUMS,
    NEWER,
    Weighing,
    _back_later,
    _beyond,
    _books,
    _is_other_push,
    _mishaps,
    judge,
)
from tests.crash.autumn.setting import CHANGED, NEW_COST, Customer, Sample, Setting, Struck, emulated
from tests.emulators.autumn_losses import Charge
from tests.fake_provider import FakeProvider, capabilities
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet

ZERO = Fraction(0)
LOST, DOUBLED = (Fraction(-3, 10), ZERO), (Fraction(1, 2), ZERO)
NEWER_LOST = (Fraction(-17, 200), Fraction(-100))
"""100 units of the changed feature at its new cost."""


def test_judge_accepts_difference_only_as_sum_of_mishaps() -> None:
    weighing = Weighing([LOST, DOUBLED])
    explained = [weighing.explains(Fraction(tenths, 10), ZERO) for tenths in (0, -3, 5, 2, 3, -5, 8)]
    assert explained == [True, True, True, True, False, False, False]
    assert not weighing.explains(Fraction(1, 3), ZERO)


def test_judge_counts_lost_units_at_cost_of_their_charge() -> None:
    weighing = Weighing([LOST, NEWER_LOST])
    assert weighing.explains(NEWER_LOST[0], 100 * NEWER)
    assert not weighing.explains(NEWER_LOST[0], ZERO), "told at the new cost, and lost at the old one"
    assert not weighing.explains(LOST[0], 100 * NEWER)


def test_judge_with_too_many_mishaps_accepts_whole_units_up_to_total() -> None:
    many = [(Fraction(-(2**place), 10**6), Fraction(-1)) for place in range(MOST_SUMS.bit_length() + 1)]
    weighing = Weighing(many)
    assert weighing.sums is None
    assert weighing.explains(Fraction(-1), len(many) * NEWER)
    assert not weighing.explains(Fraction(-1), (len(many) + 1) * NEWER)
    assert not weighing.explains(Fraction(-1), NEWER / 2)


def _account() -> Struck:
    return emulated(Setting([], []), seed=1, now_ms=T0)


@pytest.mark.parametrize(("unsure", "silent"), [(None, -10_000), (4_000, -10_000), (10_000, None), (20_000, None)])
def test_judge_difference_outside_reported_range_is_silent(
    tmp_path: Path, unsure: int | None, silent: int | None
) -> None:
    """A hundredth of a credit was used, and nothing drawn. A person was told that the balance may lack so much."""
    engine = fresh(tmp_path / "d.db")
    setting = Setting([Customer("c0", "exact", ("compute_1gb",))], [[Sample("s", "c0", "compute_1gb", T0, 100)]])
    autumn = emulated(setting, seed=1, now_ms=T0)
    if unsure is not None:
        mark = Mark(("c0", "credits"), 0, 0, "c0", scale=10**6, unsure=unsure)
        write(engine, lambda c: write_marks(c, "autumn", [mark], T0))
    found = judge(engine.url.render_as_string(), setting, autumn, {}, {}, {})
    assert found.silent == ({} if silent is None else {"c0": Fraction(silent, 10**6)})
    assert (found.unexplained, found.exact, found.told) == ({}, 0, {})
    engine.dispose()


def _given_back(name: str, feature: str, units: int, cost: Decimal) -> Charge:
    return Charge(name, feature, T0, -units, "key:r2", (("credits", -units * cost),))


@pytest.mark.parametrize(
    ("beyond", "doubled", "lost", "is_explained"),
    [
        (24, 0, 0, True), (23, 0, 0, False), (-24, 0, 0, False), (0, 0, 0, False), (24, 24, 0, False),
        (64, 0, 0, True), (48, 0, 0, False), (48, 0, 24, True), (24, 24, 24, True), (25, 0, 24, False),
    ],
)  # fmt: skip
def test_judge_units_refunded_for_another_push_count_at_new_cost(
    beyond: int, doubled: int, lost: int, is_explained: bool
) -> None:
    autumn = _account()
    for units in (24, 40):
        _books(autumn).add(_given_back("c0", CHANGED, units, NEW_COST))
    _books(autumn).add(_given_back("c0", CHANGED, 23, Decimal("0.0008")))
    _books(autumn).add(_given_back("c1", CHANGED, 23, NEW_COST))
    if doubled:
        autumn.account.doubles.append(_given_back("c0", CHANGED, -doubled, NEW_COST))
    if lost:
        autumn.account.lost.append(_given_back("c0", CHANGED, -lost, NEW_COST))
    autumn.account.lost.append(_given_back("c0", CHANGED, -25, Decimal("0.0008")))
    autumn.account.lost.append(_given_back("c1", CHANGED, -25, NEW_COST))
    assert _is_other_push(autumn, "c0", beyond * NEWER) is is_explained


def test_judge_lost_charge_cut_by_limit_counts_unit_whole() -> None:
    autumn = _account()
    cut = Charge("acme", "compute_16gb", T0, Fraction(1011, 16), "key", (("credits", Decimal("0.1011")),))
    autumn.account.undrawn.append(cut)
    assert _mishaps(autumn, "acme", set()) == [(Fraction("-0.1011"), ZERO), (Fraction("-0.0013"), ZERO)]
    assert _mishaps(autumn, "other", set()) == []


@pytest.mark.parametrize(("drawn", "is_explained"), [("0", True), ("0.0001", False), ("-0.0001", False)])
def test_judge_rest_of_lost_charge_unit_is_explained_if_exact(tmp_path: Path, drawn: str, is_explained: bool) -> None:
    """A charge of 51.375 of 52 units was lost. A person was told exactly that, and charged it by hand."""
    engine = fresh(tmp_path / "d.db")
    feature = "compute_64gb"
    setting = Setting([Customer("c0", "exact", (feature,))], [[Sample("s", "c0", feature, T0, 52)]])
    autumn = emulated(setting, seed=1, now_ms=T0)
    autumn.account.undrawn.append(
        Charge("c0", feature, T0, Fraction("51.375"), "key", (("credits", Decimal("0.3288")),))
    )
    _books(autumn).drawn["c0", "credits"] = Decimal("0.3288") + Decimal(drawn)
    found = judge(engine.url.render_as_string(), setting, autumn, {}, {"c0": Fraction("-0.3288")}, {})
    assert (not found.silent and not found.unexplained) is is_explained
    engine.dispose()


@pytest.mark.parametrize(("drawn", "is_explained"), [("0", True), ("0.0001", False), ("-0.0001", False)])
def test_rest_of_a_double_that_a_limit_cut_is_charged_to_nobody(tmp_path: Path, drawn: str, is_explained: bool) -> None:
    """Of two charges of 239 units, a limit cut the second at 189.875. It counts, and the first one was given back."""
    engine = fresh(tmp_path / "d.db")
    feature = "compute_16gb"
    setting = Setting([Customer("c0", "limited", (feature,))], [[Sample("s", "c0", feature, T0, 190)]])
    autumn = emulated(setting, seed=1, now_ms=T0)
    cut = Charge("c0", feature, T0, Fraction("189.875"), "key", (("credits", Decimal("0.3038")),))
    autumn.account.doubles.append(cut)
    _books(autumn).broken.append(cut)
    _books(autumn).drawn["c0", "credits"] = Decimal("0.3038") + Decimal(drawn)
    found = judge(engine.url.render_as_string(), setting, autumn, {}, {}, {})
    assert (not found.silent and not found.unexplained) is is_explained
    engine.dispose()


def test_rest_of_a_cut_charge_that_the_store_lost_does_not_count() -> None:
    """A limit ended the charge after 25.125 of 26 units, and the store lost it: nothing of it was drawn."""
    autumn = _account()
    cut = Charge("acme", "compute_32gb", T0, Fraction("25.125"), "key", (("credits", Decimal("0.0804")),))
    _books(autumn).add(cut)
    _books(autumn).take_back(cut, cut.value, list(cut.parts))
    assert _beyond(autumn, "acme", {}) == ZERO


@pytest.mark.parametrize("is_second", [False, True])
def test_judge_allows_rest_of_unit_for_first_charge_only(is_second: bool) -> None:
    """A limit ended the charge after 7.75 of 8 units. A second charge of a push is a mishap with its exact credits."""
    autumn = _account()
    cut = Charge("acme", "compute_4gb", T0, Fraction(31, 4), "key", (("credits", Decimal("0.0031")),))
    _books(autumn).add(cut)
    if is_second:
        autumn.account.doubles.append(cut)
    units = {"compute_4gb": 8}
    assert _beyond(autumn, "acme", units) == (Fraction("-0.0001") if is_second else ZERO)


def test_judge_charge_without_event_is_double_if_push_is_voided() -> None:
    autumn = _account()
    autumn.account.eventless.append(Charge("acme", "compute_1gb", T0, 146, "key", (("credits", Decimal("0.0146")),)))
    assert _mishaps(autumn, "acme", {"another"}) == []
    assert _mishaps(autumn, "acme", {"key"}) == [(Fraction("0.0146"), ZERO)]


def test_judge_expects_later_refund_while_push_is_rejected(tmp_path: Path) -> None:
    provider = FakeProvider(capabilities())
    engine = fresh(tmp_path / "d.db")
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1, 60)
    key = f"usage:acme:{T0}:compute_1gb"
    provider.answers[key] = Rejected("no credit")
    fleet.tick(T0 + 3 * WINDOW_MS)
    setting = Setting([], [[Sample("s", "acme", "compute_1gb", T0 + 1, 60)]])
    url = engine.url.render_as_string()
    assert _back_later(url, setting) == {}
    write(engine, lambda c: adopt_excess(c, find_push(c, key), 45, fleet.by, "drawn twice", drawn=True))
    assert _back_later(url, setting) == {"acme": 45 * Fraction("0.0001")}
    provider.answers.clear()
    write(engine, lambda c: pushes.retry(c, [key], fleet.by))
    fleet.tick(T0 + 4 * WINDOW_MS)
    assert _back_later(url, setting) == {}
    engine.dispose()
