"""Balances in credits: costs and their history, what a balance says was drawn, and which pushes it lost."""

from __future__ import annotations

from decimal import Decimal

import pytest

from drawdown.providers.protocol import Drawn, Part
from drawdown.schema.units import show_quantity
from drawdown.worker.catalog.costs import Pools, ToldCost, as_rate
from drawdown.worker.engine.waiting import CLOCKS_APART_MS
from drawdown.worker.push.balances import Accounted, Level, levels
from drawdown.worker.reconcile.balances import LOST_SPAN_MS, MOST_BESIDE, lost_among

MINUTE = 60_000


def told(feature: str, credits: str, at_ms: int = 0, confirmed_ms: int | None = None) -> ToldCost:
    micro, per_quantity = as_rate(Decimal(credits))
    return ToldCost(feature, "credits", micro, per_quantity, at_ms if confirmed_ms is None else confirmed_ms, at_ms)


@pytest.mark.parametrize(
    ("credits", "rate"),
    [
        ("0.0001", (100, 1)),
        ("0.0064", (6400, 1)),
        ("1", (1_000_000, 1)),
        ("0.00000025", (25, 100)),
        ("0.0000000001", (1, 10_000)),
    ],
)
def test_cost_becomes_exact_rate(credits: str, rate: tuple[int, int]) -> None:
    assert as_rate(Decimal(credits)) == rate
    assert told("a", credits).credits == Decimal(credits)


def test_pool_weighs_each_feature_in_whole_quantities() -> None:
    pools = Pools([told("small", "0.00000025"), told("large", "0.0064")])
    assert (pools.of("small"), pools.of("large"), pools.of("other")) == ("credits", "credits", "other")
    assert pools.scale("credits") == 10**8
    assert pools.weight("small", 0, 0) == (25, 25)
    assert pools.weight("large", 0, 0) == (640_000, 640_000)
    assert (pools.scale("other"), pools.weight("other", 0, 0), list(pools.features("other"))) == (1, (1, 1), ["other"])


def test_charge_during_cost_change_has_least_and_most() -> None:
    apart, before, after = CLOCKS_APART_MS, 5_000_000, 9_000_000
    pools = Pools([told("a", "0.0004", 1_000), told("a", "0.0006", after, confirmed_ms=before)])
    assert pools.weight_between("a", 1_500, before - apart - 1) == (400, 400)
    assert pools.weight_between("a", 1_500, before - apart) == (400, 600), "its clock may be behind"
    assert pools.weight_between("a", after + apart - 1, after + apart) == (400, 600), "its clock may be ahead"
    assert pools.weight_between("a", after + apart, after + apart) == (600, 600)
    assert pools.changes(["a"]) == [{"feature": "a", "confirmed_ms": before, "at_ms": after}]


def test_part_that_vanished_counts_as_drawn() -> None:
    pools = Pools([told("a", "0.0001")])
    known = [Part("credits", "topup-1", Decimal(50)), Part("credits", "topup-2", Decimal(25))]
    shown = {"credits": Drawn(Decimal("1205"), None, parts=(known[1],))}
    assert levels(shown, pools, known) == {"credits": Level(1_255 * 10**6, None)}
    monthly = {"credits": Drawn(Decimal("1205"), 5, parts=(known[1],))}
    assert levels(monthly, pools, known) == {"credits": Level(1_255 * 10**6, 5, whole=False)}


def test_part_that_expired_may_have_been_drawn() -> None:
    pools = Pools([told("a", "0.0001")])
    known = [Part("credits", "promo", Decimal(40), ends_ms=7_000)]
    (level,) = levels({"credits": Drawn(Decimal(3), None)}, pools, known).values()
    assert level == Level(3 * 10**6, None, expired=40 * 10**6, expired_ms=7_000)
    marked = Accounted(ours=3 * 10**6, apart=0, marked_ms=6_000)
    assert marked.beyond(level) == (0, 40 * 10**6)
    later = Accounted(ours=3 * 10**6, apart=0, marked_ms=8_000)
    assert later.beyond(level) == (0, 0)


def test_fraction_of_plain_balance_tells_nothing() -> None:
    assert levels({"a": Drawn(Decimal("1.5"), None)}, Pools([]), []) == {}
    assert levels({"a": Drawn(3, None)}, Pools([]), []) == {"a": Level(3, None)}


@pytest.mark.parametrize(
    ("drew", "settled", "amount", "lost"),
    [
        ([4, 5, 6], [300, 200, 100], 9, [0, 1]),
        ([4, 5, 6], [300, 200, 100], 11, [1, 2]),
        ([4, 5, 6], [300, 200, 100], 10, None),  # the oldest and the newest do not follow one another
        ([4, 5, 6, 7], [300, 100, 100, 100], 11, [0, 3]),  # of what was under way together, any part
        ([4, -1, 6], [300, 200, 100], 3, [0, 1]),
        ([4, 5], [LOST_SPAN_MS + 101, 100], 9, None),
        ([4, 5], [LOST_SPAN_MS + 100, 100], 9, [0, 1]),
        ([], [], 9, None),
    ],
)
def test_lost_charges_follow_one_another(
    drew: list[int], settled: list[int], amount: int, lost: list[int] | None
) -> None:
    assert lost_among(drew, settled, amount) == lost


def test_lost_charges_beside_others_are_bounded() -> None:
    drew = [1, *(2 ** (place + 1) for place in range(MOST_BESIDE + 1))]
    settled = [MINUTE, *([0] * (MOST_BESIDE + 1))]
    assert lost_among(drew, settled, 1 + drew[MOST_BESIDE]) == [0, MOST_BESIDE]
    assert lost_among(drew, settled, 1 + drew[MOST_BESIDE + 1]) is None


@pytest.mark.parametrize(
    ("quantity", "scale", "text"),
    [(65_690_000, 10**6, "65.69"), (-1, 10**6, "-0.000001"), (1_234, 1, "1,234"), (10**10, 10**6, "10,000")],
)
def test_quantity_is_shown_in_its_unit(quantity: int, scale: int, text: str) -> None:
    assert show_quantity(quantity, scale) == text
    assert show_quantity(5, 1, sign=True) == "+5"
