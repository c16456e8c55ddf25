"""The guard's decision: its order of rules, its phases, its warnings, its periods and its prices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from drawdown.guard.decide import (
    IN_DOUBT,
    Counted,
    Decision,
    Facts,
    Limit,
    Override,
    Price,
    Reach,
    decide,
    holds,
    in_force,
    warned_after,
)
from drawdown.guard.periods import PERIODS, Period, Span, end_of, start_of, starts
from tests.cases import cases

NOTHING = {period: Counted() for period in PERIODS}
MONTH = Limit("month", 10, plan="free")


def facts(
    *limits: Limit, used: int = 0, phase: int = 3, pays: bool = False, warned: bool = False, **more: object
) -> Facts:
    counted = {period: Counted(used, warned) for period in PERIODS}
    return Facts(phase, 200_000, pays, limits, counted, **more)  # type: ignore[arg-type]


def test_guard_first_refusing_rule_in_order_is_shown() -> None:
    """Each fact alone would refuse; the earlier one is said."""
    over = Override(7, "org", "month", 0)
    everything: dict[str, object] = {"halted": "stopped", "overrides": (over,), "no_credit": "no_credit"}
    said = []
    for gone in ((), ("halted",), ("halted", "overrides"), ("halted", "overrides", "limit")):
        left = {name: value for name, value in everything.items() if name not in gone}
        limit = Limit("month", 10 if "limit" in gone else 0, plan="free")
        found = decide(facts(limit, **left), 1)  # type: ignore[arg-type]
        assert found.decision == "block"
        said.append((found.rule, found.reason))
    assert said == [
        ("operator", "stopped"), ("override:7", "limit"), ("limit:free:month", "limit"), ("credits", "no_credit"),
    ]  # fmt: skip
    assert decide(facts(MONTH), 1).rule == "limit:free:month"


@cases("code", sorted(IN_DOUBT))
def test_guard_with_credit_in_doubt_allows_only_if_failing_open(code: str) -> None:
    """What is known to be lacking is lacking, and a limit is one, however credit stands."""
    assert decide(facts(MONTH, no_credit=code), 1).rule == "credits"
    assert decide(facts(MONTH, no_credit=code, fails_open=True), 1).decision == "allow"
    assert decide(facts(MONTH, no_credit="no_credit", fails_open=True), 1).rule == "credits"
    assert decide(facts(MONTH, no_credit=code, fails_open=True), 11).rule == "limit:free:month"


def test_guard_without_limit_blocks_and_unlimited_is_allowed() -> None:
    none = decide(facts(), 1)
    assert (none.decision, none.rule, none.reason, none.bound) == ("block", "limit", "no_entitlement", None)
    endless = decide(facts(Limit("day", None, plan="pro")), 10**12)
    assert (endless.decision, endless.rule, endless.remaining) == ("allow", "unlimited", None)
    assert decide(facts(overrides=(Override(1, "org", "day", None),)), 5).decision == "allow", "it entitles, too"


@cases(("used", "wanted", "decision"), [(0, 10, "warn"), (9, 1, "warn"), (9, 2, "block"), (10, 1, "block")])
def test_guard_limit_is_used_up_to_last_unit(used: int, wanted: int, decision: Decision) -> None:
    found = decide(facts(MONTH, used=used), wanted)
    assert (found.decision, found.used) == (decision, used)
    assert found.remaining == 10 - used - (wanted if decision == "warn" else 0)


def test_guard_limit_with_least_remaining_decides() -> None:
    counted = {"hour": Counted(4), "day": Counted(4), "month": Counted(9)}
    limits = (Limit("hour", 5, plan="a"), Limit("day", 50, plan="a"), Limit("month", 11, plan="a"))
    found = decide(Facts(3, 0, False, limits, counted), 2)  # type: ignore[arg-type]
    assert (found.decision, found.rule, found.remaining) == ("block", "limit:a:hour", 1)
    found = decide(Facts(3, 0, False, limits, counted), 1)  # type: ignore[arg-type]
    assert (found.decision, found.rule, found.remaining) == ("warn", "limit:a:hour", 0)


def test_guard_enforced_limit_decides_before_unenforced() -> None:
    counted = {"hour": Counted(9), "day": Counted(5), "month": Counted(0)}
    limits = (Limit("hour", 5, 1, "a"), Limit("day", 5, 3, "a"))
    found = decide(Facts(0, 0, False, limits, counted), 1)  # type: ignore[arg-type]
    assert (found.decision, found.rule, found.enforced) == ("block", "limit:a:day", True)


def test_guard_override_replaces_limit_of_its_period_only() -> None:
    limits = (Limit("hour", 1, plan="free"), MONTH)
    found = in_force(facts(*limits, overrides=(Override(3, "plan", "hour", 5),)))
    assert [(one.rule, one.amount) for one in found] == [("override:3", 5), ("limit:free:month", 10)]


def test_guard_override_order_is_org_pattern_plan_then_newest() -> None:
    reaches: tuple[Reach, ...] = ("org", "pattern", "plan")
    every = [Override(number, reach, "month", number) for number, reach in enumerate(reaches * 2)]
    order = []
    while every:
        (found,) = in_force(facts(MONTH, overrides=tuple(every)))
        order.append(found.amount)
        every = [one for one in every if one.number != found.amount]
    assert order == [3, 0, 4, 1, 5, 2]


@cases(
    ("phase", "pays", "decision", "enforced"),
    [
        (0, False, "allow", False), (0, True, "allow", False), (1, False, "warn", False), (1, True, "warn", False),
        (2, False, "block", True), (2, True, "warn", False), (3, False, "block", True), (3, True, "block", True),
    ],
)  # fmt: skip
def test_guard_phase_decides_if_refusal_is_enforced(phase: int, pays: bool, decision: Decision, enforced: bool) -> None:
    for made in (
        facts(MONTH, used=10, phase=phase, pays=pays),
        facts(Limit("month", 10, phase, "free"), used=10, phase=3 - phase, pays=pays),
        facts(phase=phase, pays=pays),
        facts(MONTH, phase=phase, pays=pays, no_credit="no_credit"),
    ):
        found = decide(made, 1)
        assert (found.decision, found.would, found.enforced) == (decision, "block", enforced)
    assert decide(facts(MONTH, phase=phase, halted="halted"), 1).decision == "block", "an operator's word is one"


def test_guard_low_limit_warning_is_given_once_until_recovery() -> None:
    """A limit of 100: it is warned at 20 left, and anew only after 30 were left."""
    said, warned = [], False
    for used in (79, 80, 95, 85, 71, 80, 70, 79, 80):
        after = warned_after(200_000, 100, used, before=warned)
        said.append(after and not warned)
        warned = after
    assert said == [False, True, False, False, False, False, False, False, True]
    limit = Limit("month", 100, plan="free")
    assert decide(facts(limit, used=79), 1).decision == "warn"
    assert decide(facts(limit, used=80, warned=True), 1).decision == "allow"
    assert decide(facts(limit, used=79, phase=0), 1).would == "warn"
    assert decide(facts(limit, used=79, phase=0), 1).decision == "allow"
    assert warned_after(200_000, None, 10**12, before=True) is False


@given(
    st.integers(0, 30), st.integers(1, 30), st.one_of(st.none(), st.integers(0, 30)), st.integers(0, 3), st.booleans(),
    st.integers(0, 1_000_000), st.booleans(),
)  # fmt: skip
def test_guard_random_use_above_enforced_limit_is_blocked(
    used: int, amount: int, limit: int | None, phase: int, pays: bool, warn_ppm: int, warned: bool
) -> None:
    counted: dict[Span, Counted] = {period: Counted(used, warned) for period in PERIODS}
    found = decide(Facts(phase, warn_ppm, pays, (Limit("day", limit, plan="p"),), counted), amount)
    above = limit is not None and used + amount > limit
    assert (found.would == "block") == above
    assert (found.decision == "block") == (above and holds(phase, pays))
    if phase == 0:
        assert found.decision == "allow"


@given(st.integers(946_684_800_000, 4_102_444_800_000))
def test_guard_periods_are_calendar_periods_without_gaps(moment: int) -> None:
    found = (
        datetime.fromtimestamp(moment / 1000, UTC)
        if moment % 1000 == 0
        else datetime.fromtimestamp(moment // 1000, UTC)
    )
    hour = found.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    month = day.replace(day=1)
    after = {
        "hour": hour + timedelta(hours=1),
        "day": day + timedelta(days=1),
        "month": (month + timedelta(days=32)).replace(day=1),
    }
    began: dict[Period, datetime] = {"hour": hour, "day": day, "month": month}
    for period in PERIODS:
        assert start_of(period, moment) == began[period].timestamp() * 1000
        assert end_of(period, moment) == after[period].timestamp() * 1000
        assert start_of(period, end_of(period, moment)) == end_of(period, moment)
        assert starts(moment)[period] <= moment < end_of(period, moment)


@given(st.integers(0, 10**15), st.integers(1, 10**12), st.integers(0, 10**12))
def test_price_is_rounded_half_up_to_micro_credit(micro: int, per: int, amount: int) -> None:
    exact = Fraction(amount * micro, per)
    assert -Fraction(1, 2) < Price(micro, per).of(amount) - exact <= Fraction(1, 2)


def test_price_of_example_quantities_is_exact() -> None:
    assert Price(1_000_000, 25).of(30) == 1_200_000, "a credit for 25 MB"
    assert Price(100_000, 1).of(3) == 300_000
    assert Price(0, 1).of(10**12) == 0
