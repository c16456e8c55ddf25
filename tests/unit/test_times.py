"""Times and amounts as people type them; windows to the millisecond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.cli.main import global_options_first
from drawdown.cli.nouns.tick import parse_shard
from drawdown.ledger.rates import Rate
from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import (
    parse_credits,
    parse_percent,
    parse_time,
    parse_window,
    show_credits,
    show_time,
)
from drawdown.schema.units import BUCKETS, GRACE_MS, WINDOW_MS, horizon, next_window, push_key, window_of
from tests.cases import cases

MOMENT = 1_733_702_400_000


@cases("text", ["2024-12-09", "2024-12-09T00:00", "2024-12-09T01:00:00+01:00", "2024-12-09T00:00:00Z", str(MOMENT)])
def test_time_in_each_notation_is_parsed(text: str) -> None:
    assert parse_time(text, "--at", 0) == MOMENT


def test_time_without_offset_is_in_given_zone() -> None:
    assert parse_time("2024-12-09T01:00", "--from", 0, "Europe/Berlin") == MOMENT


@cases(
    ("text", "moment"),
    [
        ("now", MOMENT + 61_000),
        ("30s", MOMENT + 31_000),
        ("1m", MOMENT + 1_000),
        ("2h", MOMENT + 61_000 - 7_200_000),
        ("3d", MOMENT + 61_000 - 3 * 86_400_000),
        ("1w", MOMENT + 61_000 - 7 * 86_400_000),
        ("+2h", MOMENT + 61_000 + 7_200_000),
        ("today", MOMENT),
        ("yesterday", MOMENT - 86_400_000),
        ("tomorrow", MOMENT + 86_400_000),
    ],
)
def test_time_relative_to_now_is_parsed(text: str, moment: int) -> None:
    assert parse_time(text, "--from", MOMENT + 61_000) == moment


def test_day_of_zone_with_25_hours_is_parsed() -> None:
    now, zone = parse_time("2026-10-26T00:30:00+01:00", "", 0), "Europe/Berlin"
    assert parse_time("today", "--from", now, zone) == now - 1_800_000
    assert parse_time("yesterday", "--from", now, zone) == now - 1_800_000 - 25 * 3_600_000


@cases("text", ["now", "1m", "4m"])
def test_window_relative_to_now_contains_the_moment(text: str) -> None:
    assert parse_window(text, "--from", MOMENT + WINDOW_MS + 299_999) == MOMENT + WINDOW_MS


@cases("text", ["", "soon", "2024-13-01", "12", "2024-12-09T25:00", "-2h", "2 h", "1y", "999999w", "٢h"])
def test_time_invalid_is_refused_with_option_name(text: str) -> None:
    with pytest.raises(UsageError, match="--at"):
        parse_time(text, "--at", MOMENT)


def test_window_off_boundary_is_refused() -> None:
    assert parse_window("2024-12-09T00:05", "--from", 0) == MOMENT + WINDOW_MS
    with pytest.raises(UsageError, match="2024-12-09T00:05:00Z"):
        parse_window("2024-12-09T00:07", "--from", 0)


def test_time_is_shown_in_utc_with_milliseconds_if_needed() -> None:
    assert show_time(MOMENT) == "2024-12-09T00:00:00Z"
    assert show_time(MOMENT + 5) == "2024-12-09T00:00:00.005Z"
    assert show_time(None) == "-"


@cases(("text", "micro"), [("1", 1_000_000), ("12.50", 12_500_000), ("-0.000001", -1), ("0", 0)])
def test_credits_are_parsed_exactly(text: str, micro: int) -> None:
    assert parse_credits(text) == micro


@cases("text", ["1e3", "1E3", "1_000", " 5", "5 ", "--5", ".", "1.2.3", "٣", "0x10", "1,5", "1e-2"])
def test_amount_in_unusual_notation_is_refused(text: str) -> None:
    for parse in (parse_credits, parse_percent):
        with pytest.raises(UsageError):
            parse(text)


@cases("text", ["", "x", "NaN", "inf", "0.0000001", "1e30"])
def test_credits_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_credits(text)


@given(st.integers(-(10**15), 10**15))
def test_credits_shown_are_parsed_to_same_value(micro: int) -> None:
    assert parse_credits(show_credits(micro).replace(",", "")) == micro


@given(st.integers(0, 1 << 50))
def test_moment_is_inside_a_single_window(ts: int) -> None:
    window = window_of(ts)
    assert window % WINDOW_MS == 0
    assert window <= ts < window + WINDOW_MS
    assert next_window(ts) - ts in range(WINDOW_MS)


def test_window_is_sealed_only_after_grace() -> None:
    end = MOMENT + WINDOW_MS
    assert horizon(end + GRACE_MS - 1) == MOMENT
    assert horizon(end + GRACE_MS) == end


@given(st.integers(-(10**12), 10**12), st.integers(0, 10**6), st.integers(1, 10**6))
def test_rate_price_of_negative_quantity_is_negated_price(quantity: int, micro: int, per: int) -> None:
    rate = Rate("f", 0, micro, per)
    assert rate.price(quantity) == -rate.price(-quantity)
    assert abs(rate.price(quantity) * per - quantity * micro) * 2 <= per


def test_push_keys_of_revisions_differ_and_exclude_quantity() -> None:
    assert push_key("a:1", 300_000, "compute", 0) == "usage:a:1:300000:compute"
    assert push_key("a:1", 300_000, "compute", 2) == "usage:a:1:300000:compute:r2"


@cases("count", [1, 3, 7, 256])
def test_shards_cover_every_bucket_once(count: int) -> None:
    shards = [parse_shard(f"{index}/{count}") for index in range(count)]
    covered = [bucket for shard in shards for bucket in range(shard.lo, shard.hi + 1)]
    assert covered == list(range(BUCKETS))


@cases("text", ["", "1", "1/0", "2/2", "-1/2", "0/257", "a/b"])
def test_shard_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_shard(text)


def test_global_options_are_accepted_in_any_position() -> None:
    given_ = ["org", "show", "x", "--json", "--at", "2024-12-09", "--database-url=sqlite:///y", "--", "--json"]
    moved = ["--json", "--at", "2024-12-09", "--database-url=sqlite:///y", "org", "show", "x", "--", "--json"]
    assert global_options_first(given_) == moved
