"""Calendar months, and what rolls over: the pure part."""

from __future__ import annotations

from drawdown.ledger.allocation import Uses, merged, parts
from drawdown.ledger.calendar import next_start, period_of, start_of
from drawdown.ledger.expiry import Room, close, cut_for, rolls
from tests.cases import cases
from tests.unit.test_allocation import lot

T0 = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
DAY_MS = 86_400_000
FEBRUARY, MARCH = T0 + 31 * DAY_MS, T0 + 59 * DAY_MS


@cases(
    ("moment", "name", "start", "after"),
    [
        (T0, "2026-01", T0, FEBRUARY),
        (FEBRUARY - 1, "2026-01", T0, FEBRUARY),
        (FEBRUARY, "2026-02", FEBRUARY, MARCH),
        (T0 - 1, "2025-12", T0 - 31 * DAY_MS, T0),
        (T0 + (365 + 365 + 59) * DAY_MS, "2028-02", T0 + (730 + 31) * DAY_MS, T0 + (730 + 60) * DAY_MS),
        (0, "1970-01", 0, 31 * DAY_MS),
    ],
)
def test_months_are_contiguous(moment: int, name: str, start: int, after: int) -> None:
    assert (period_of(moment), start_of(moment), next_start(moment)) == (name, start, after)
    assert start_of(next_start(moment)) == next_start(moment)


INCLUDED = lot(
    "included:c:team:2026-01", 100, T0, FEBRUARY, kind="included", part="included", plan="team", period="2026-01",
    rollover_min_micro=10, rollover_max_micro=50,
)  # fmt: skip


@cases(("expired", "rolled"), [(0, 0), (9, 0), (10, 10), (50, 50), (51, 50), (-3, 0)])
def test_rollover_is_limited_by_minimum_and_maximum(expired: int, rolled: int) -> None:
    assert rolls(expired, INCLUDED) == rolled


def test_time_parts_are_split_for_rollover_and_merged() -> None:
    cut = cut_for([INCLUDED])
    assert cut == [(None, T0), (T0, FEBRUARY), (FEBRUARY, MARCH), (MARCH, None)]
    uses: Uses = {0: {None: 1}, 1: {"x": 2}, 2: {"x": 3, None: 4}, 3: {"x": -5}}
    assert merged([INCLUDED], uses, cut) == {0: {None: 1}, 1: {"x": 2}, 2: {"x": -2, None: 4}}
    assert merged([], uses, cut) == {0: {None: 5, "x": 0}}
    assert parts([INCLUDED]) == [(None, T0), (T0, FEBRUARY), (FEBRUARY, None)]


def test_month_closed_twice_gives_same_result() -> None:
    """Closed twice, it comes to the same."""
    uses: Uses = {1: {None: 40}}
    first = close([INCLUDED], uses, Room(60, 0), FEBRUARY, FEBRUARY)
    assert [(one.lot, one.amount_micro) for one in first.new] == [("rollover:c:2026-02", 50)]
    assert first.lots[INCLUDED.lot].expired_micro == 60
    again = close(list(first.lots.values()), uses, Room(50, 0), FEBRUARY, FEBRUARY)
    assert (again.lots, again.new, again.deferred_micro, again.unfinished) == (first.lots, [], 0, False)
