"""Balances in credits: costs and their history, what a balance says was drawn, and which pushes it lost."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

from drawdown.providers.protocol import Drawn, Part
from drawdown.schema.units import show_quantity
from drawdown.worker.catalog.costs import Pools, ToldCost, as_rate, as_text, own_cost
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.push.evidence import Accounted, Expired, Level, levels
from drawdown.worker.reconcile.balances import LOST_SPAN_MS, MOST_BESIDE, MOST_LOST, MOST_LOST_SUMS, lost_among
from tests.cases import cases

MINUTE = 60_000
HOUR = 60 * MINUTE
UNROUND = 9_973
"""A factor that makes no sum a round figure."""


def told(feature: str, credits: str, at_ms: int = 0, confirmed_ms: int | None = None) -> ToldCost:
    micro, per_quantity = as_rate(Decimal(credits))
    return ToldCost(feature, "credits", micro, per_quantity, confirmed_ms, at_ms)


@cases(
    ("credits", "rate"),
    [
        ("0.0001", (100, 1)),
        ("0.0064", (6400, 1)),
        ("1", (1_000_000, 1)),
        ("0.00000025", (25, 100)),
        ("0.0000000001", (1, 10_000)),
    ],
)
def test_provider_cost_becomes_exact_rate(credits: str, rate: tuple[int, int]) -> None:
    assert as_rate(Decimal(credits)) == rate
    assert told("a", credits).credits == Decimal(credits)


def test_credit_system_weighs_each_feature_in_whole_quantities() -> None:
    pools = Pools([told("small", "0.00000025"), told("large", "0.0064")])
    assert (pools.of("small"), pools.of("large"), pools.of("other")) == ("credits", "credits", "other")
    assert pools.scale("credits") == 10**8
    assert pools.weight("credits", "small", 0, 0) == (25, 25)
    assert pools.weight("credits", "large", 0, 0) == (640_000, 640_000)
    assert pools.weight("credits", "credits", 0, 0) == (10**8, 10**8), "the credits can be charged themselves"
    assert list(pools.features("credits")) == ["credits", "large", "small"]
    other = pools.scale("other"), pools.weight("other", "other", 0, 0), list(pools.features("other"))
    assert other == (1, (1, 1), ["other"])


def test_charge_during_cost_change_has_lower_and_upper_weight() -> None:
    pools = Pools([told("a", "0.0004", HOUR), told("a", "0.0006", 9 * HOUR, confirmed_ms=5 * HOUR)])
    begins, holds = 5 * HOUR - CLOCKS_APART_MS, 9 * HOUR + CLOCKS_APART_MS
    assert pools.weight_between("credits", "a", 2 * HOUR, begins - 1) == (400, 400)
    assert pools.weight_between("credits", "a", 4 * HOUR, begins) == (400, 600)
    assert pools.weight_between("credits", "a", holds - 1, holds) == (400, 600), "a process's clock may be ahead"
    assert pools.weight_between("credits", "a", holds, holds) == (600, 600)
    assert pools.changes(["a"]) == [{"feature": "a", "confirmed_ms": begins, "at_ms": holds}]


def test_charge_with_known_cost_has_exact_weight_during_cost_change() -> None:
    pools = Pools([told("a", "0.0004", HOUR), told("a", "0.0006", 9 * HOUR, confirmed_ms=5 * HOUR)])
    between = [
        [*map(int, pools.weight_told_between("credits", "a", 5 * HOUR, 6 * HOUR, cost))]
        for cost in ("0.0004", "0.0006", "0.0005")
    ]
    assert between == [[400, 400], [600, 600], [400, 600]], "a cost that no reading of costs saw narrows nothing"
    assert as_text(Decimal("0.00060")) == "0.0006" and as_text(Decimal("1E+2")) == "100" and as_text(None) is None


def test_charge_at_cost_without_read_has_that_cost_as_bound() -> None:
    """The cost changed after the last read of the costs, and the answer to the charge reported the new one."""
    pools = Pools([told("a", "0.0001", HOUR), told("b", "0.0008", HOUR)])
    assert pools.weight_told_between("credits", "a", 5 * HOUR, 6 * HOUR, "0.0008") == (Fraction(100), Fraction(800))
    assert pools.weight_told_between("credits", "a", 5 * HOUR, 6 * HOUR, "0.0001") == (Fraction(100),) * 2


def test_charge_of_partial_unit_has_weight_of_credits_taken() -> None:
    """2.5 units of 0.0004 credits: three units count, of a third of 0.001 credits each."""
    pools = Pools([told("a", "0.0004", HOUR), told("a", "0.0006", 9 * HOUR, confirmed_ms=5 * HOUR)])
    cost = as_text(Fraction(1, 3_000))
    assert cost == "1/3000"
    assert pools.weight_told_between("credits", "a", HOUR, HOUR, cost) == (Fraction(1_000, 3),) * 2
    assert pools.weight_told_between("credits", "a", 5 * HOUR, 6 * HOUR, cost) == (Fraction(1_000, 3),) * 2
    joined = Pools([told("a", "0.0004", 6 * HOUR, confirmed_ms=5 * HOUR)])
    weighed = joined.weight_told_between("credits", "a", HOUR, HOUR, cost)
    assert weighed == (Fraction(0), Fraction(1_000, 3)), "it may have drawn on the feature's own balance"


def test_feature_that_leaves_credit_system_stops_weighing() -> None:
    pools = Pools([told("a", "0.0004"), told("b", "0.0001"), own_cost("a", 5 * HOUR, 6 * HOUR)])
    assert (pools.of("a"), pools.of("b"), list(pools.features("credits"))) == ("a", "credits", ["credits", "a", "b"])
    weighed = [
        [pools.weight_between(pool, "a", at, at) for at in (HOUR, 5 * HOUR, 7 * HOUR)] for pool in ("credits", "a")
    ]
    assert weighed == [[(400, 400), (0, 400), (0, 0)], [(0, 0), (0, 1), (1, 1)]]
    assert [cost.feature for cost in pools.reported_costs()] == ["a", "b"]


def test_use_before_credit_system_has_lower_and_upper_weight() -> None:
    pools = Pools([told("a", "0.0004", 6 * HOUR, confirmed_ms=5 * HOUR)])
    weighed = [pools.weight_between("credits", "a", at, at) for at in (HOUR, 5 * HOUR, 7 * HOUR)]
    assert weighed == [(0, 400), (0, 400), (400, 400)]


def test_charge_settled_by_slow_clock_has_lower_and_upper_weight() -> None:
    pools = Pools([told("a", "0.0004", HOUR), told("a", "0.0006", 9 * HOUR, confirmed_ms=9 * HOUR)])
    assert pools.weight_between("credits", "a", 9 * HOUR + 5 * MINUTE, 9 * HOUR - 5 * MINUTE) == (400, 600)


def test_balance_part_that_vanished_counts_as_drawn() -> None:
    pools = Pools([told("a", "0.0001")])
    known = [Part("credits", "topup-1", Decimal(50)), Part("credits", "topup-2", Decimal(25))]
    shown = {"credits": Drawn(Decimal("1205"), None, parts=(known[1],))}
    assert levels(shown, pools, known, HOUR) == {"credits": Level(1_255 * 10**6, None)}
    monthly = {"credits": Drawn(Decimal("1205"), 5, parts=(known[1],))}
    assert levels(monthly, pools, known, HOUR) == {"credits": Level(1_255 * 10**6, 5, whole=False)}


def test_balance_part_that_expired_has_bounds() -> None:
    pools = Pools([told("a", "0.0001")])
    known = [Part("credits", "promo", Decimal(40), ends_ms=7 * HOUR)]
    (level,) = levels({"credits": Drawn(Decimal(3), None)}, pools, known, 8 * HOUR).values()
    assert level == Level(3 * 10**6, None, expired=(Expired(known[0], 0, 40 * 10**6),))
    seen = [Part("credits", "promo", Decimal(40), 7 * HOUR, used=Decimal("3.2"), seen_ms=5)]
    level = levels({"credits": Drawn(Decimal(3), None)}, pools, seen, 7 * HOUR)["credits"]
    assert level == Level(6_200_000, None, expired=(Expired(seen[0], 3_200_000, 36_800_000),))
    marked = Accounted(ours=6_200_000, apart=0, marked_ms=6 * HOUR, expired=(10, 640_000))
    assert marked.beyond(level) == (-10, 640_000)


def test_balance_part_gone_before_its_end_counts_as_drawn() -> None:
    pools = Pools([told("a", "0.0001")])
    known = [Part("credits", "promo", Decimal(40), ends_ms=7 * HOUR)]
    assert levels({"credits": Drawn(Decimal(3), None)}, pools, known, 6 * HOUR) == {"credits": Level(43 * 10**6, None)}


def test_fraction_of_plain_balance_is_ignored() -> None:
    assert levels({"a": Drawn(Decimal("1.5"), None)}, Pools([]), [], HOUR) == {}
    assert levels({"a": Drawn(3, None)}, Pools([]), [], HOUR) == {"a": Level(3, None)}


@cases(
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
def test_lost_charges_are_consecutive(drew: list[int], settled: list[int], amount: int, lost: list[int] | None) -> None:
    assert lost_among([one * UNROUND for one in drew], settled, amount * UNROUND) == lost


def test_lost_charges_beside_concurrent_charges_are_bounded() -> None:
    drew = [UNROUND, *(UNROUND * 2 ** (place + 1) for place in range(MOST_BESIDE + 1))]
    settled = [MINUTE, *([0] * (MOST_BESIDE + 1))]
    assert lost_among(drew, settled, UNROUND + drew[MOST_BESIDE]) == [0, MOST_BESIDE]
    assert lost_among(drew, settled, UNROUND + drew[MOST_BESIDE + 1]) is None


def _day_of_seven_sizes() -> tuple[list[int], list[int]]:
    """The newest pushes of a customer who uses every size, for a part of each window."""
    rng = random.Random(7)
    costs = [100, 200, 400, 800, 1_600, 3_200, 6_400]
    drew = [rng.randrange(1, 301) * cost for _ in range(71) for cost in costs]
    return drew, [-(place // len(costs)) * 5 * MINUTE for place in range(len(drew))]


@cases("credits", [1, 2, 5])
def test_round_topup_of_busy_customer_is_not_taken_for_loss(credits: int) -> None:
    drew, settled = _day_of_seven_sizes()
    assert lost_among(drew, settled, credits * 10**6) is None, "among so many sums any figure is found"


def test_loss_of_busy_customer_is_found_among_newest_charges() -> None:
    drew, settled = _day_of_seven_sizes()
    assert lost_among(drew, settled, sum(drew[:9])) == list(range(9))


def test_loss_search_in_large_batch_is_bounded() -> None:
    rng = random.Random(7)
    tried = list[int]()

    class Counted(list[int]):
        def __getitem__(self, place: Any) -> Any:
            tried.append(place)
            return super().__getitem__(place)

    drew = Counted(rng.randrange(1, 301) * 100 for _ in range(MOST_LOST))
    assert lost_among(drew, [0] * MOST_LOST, 10**12) is None
    assert len(tried) < MOST_LOST_SUMS


@cases(
    ("quantity", "scale", "text"),
    [(65_690_000, 10**6, "65.69"), (-1, 10**6, "-0.000001"), (1_234, 1, "1,234"), (10**10, 10**6, "10,000")],
)
def test_quantity_is_shown_in_unit_of_scale(quantity: int, scale: int, text: str) -> None:
    assert show_quantity(quantity, scale) == text
    assert show_quantity(5, 1, sign=True) == "+5"
