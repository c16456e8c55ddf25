"""What anybody may have logged: a line a minute of each kind, and every one is counted."""

from __future__ import annotations

from drawdown.server.http.log_throttle import EVERY_MS, MOST_KINDS, LogThrottle

NOW_MS = 1_767_225_600_000


def test_log_throttle_allows_line_per_minute_and_counts_skipped() -> None:
    seldom = LogThrottle()
    assert [seldom.passed_over(NOW_MS + n, "refused", "autumn") for n in range(4)] == [0, None, None, None]
    assert seldom.passed_over(NOW_MS, "refused", "stripe") == 0
    assert seldom.passed_over(NOW_MS + EVERY_MS - 1, "refused", "autumn") is None
    assert seldom.passed_over(NOW_MS + EVERY_MS, "refused", "autumn") == 4
    assert seldom.passed_over(NOW_MS + 2 * EVERY_MS, "refused", "autumn") == 0


def test_log_throttle_after_clock_set_back_allows_line() -> None:
    seldom = LogThrottle()
    assert seldom.passed_over(NOW_MS, "refused") == 0
    assert seldom.passed_over(NOW_MS - 1, "refused") == 0


def test_log_throttle_with_many_words_bounds_lines_and_memory() -> None:
    seldom, lines, calls = LogThrottle(), 0, 10 * MOST_KINDS
    counted = 0
    for minute in range(3):
        for number in range(calls):
            found = seldom.passed_over(NOW_MS + minute * EVERY_MS, "refused", f"{minute} {number % (calls // 2)}")
            lines, counted = lines + (found is not None), counted + (found or 0)
        assert lines == (minute + 1) * (MOST_KINDS + 1)
        assert len(seldom._kinds) <= MOST_KINDS + 1
    rest = [seldom.passed_over(NOW_MS + 9 * EVERY_MS, "refused", word) for word in ("the next", "and another")]
    assert rest == [3 * calls - lines - counted, 0]
