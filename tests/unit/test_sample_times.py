"""Times of samples: each style exactly, and both days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from drawdown.worker.sources.samples.rows import BadRow, time_reader
from tests.cases import cases

GOOD_TS = 1_731_689_870_000


@cases(
    ("style", "text", "ms"),
    [
        ("iso", "2024-11-15 16:57:50", GOOD_TS),
        ("iso", " 2024-11-15T16:57:50Z ", GOOD_TS),
        ("iso", "2024-11-15T16:57:50.123456Z", GOOD_TS + 123),
        ("iso", "2024-11-15T16:57:50.999999999Z", GOOD_TS + 999),
        ("iso", "2024-11-15T22:27:50+05:30", GOOD_TS),
        ("iso", "2024-11-15", GOOD_TS - GOOD_TS % 86_400_000),
        ("s", "1731689870", GOOD_TS),
        ("s", "1731689870.1239", GOOD_TS + 123),
        ("s", "1731689870.00" + "9" * 80, GOOD_TS + 9),
        ("s", "1.73168987e9", GOOD_TS),
        ("ms", "1731689870123", GOOD_TS + 123),
        ("ms", "1731689870123.999", GOOD_TS + 123),
        ("ms", "-0.5", -1),
        ("%d.%m.%Y %H:%M:%S", "15.11.2024 16:57:50", GOOD_TS),
        ("%d/%b/%Y:%H:%M:%S %z", "15/Nov/2024:11:57:50 -0500", GOOD_TS),
    ],
)
def test_sample_time_in_each_style_is_exact(style: str, text: str, ms: int) -> None:
    assert time_reader(style, "UTC")(text) == ms


@cases(
    ("style", "text", "reason"),
    [
        ("s", "", "ts_missing"),
        ("s", "soon", "ts_unreadable"),
        ("s", "nan", "ts_unreadable"),
        ("s", "1e999999", "ts_in_the_future"),
        ("ms", "-1e999999", "ts_before_2000"),
        ("ms", "9" * 5000, "ts_unreadable"),
        ("ms", "2024-11-15", "ts_unreadable"),
        ("%d.%m.%Y", "2024-11-15", "ts_unreadable"),
        ("%d.%m.%Y", "", "ts_missing"),
    ],
)
def test_sample_time_unreadable_is_rejected_with_reason(style: str, text: str, reason: str) -> None:
    with pytest.raises(BadRow) as refused:
        time_reader(style, "UTC")(text)
    assert (refused.value.column, refused.value.reason) == ("ts", reason)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@cases(
    ("zone", "local", "utc"),
    [
        ("Europe/Berlin", "2024-07-01 12:00:00", "2024-07-01 10:00:00"),
        ("Europe/Berlin", "2024-12-01 12:00:00", "2024-12-01 11:00:00"),
        ("Europe/Berlin", "2024-03-31 01:59:59", "2024-03-31 00:59:59"),
        ("Europe/Berlin", "2024-03-31 03:00:00", "2024-03-31 01:00:00"),
        ("Europe/Berlin", "2024-10-27 02:30:00", "2024-10-27 00:30:00"),  # the first of the two
        ("Europe/Berlin", "2024-10-27 03:00:00", "2024-10-27 02:00:00"),
        ("Australia/Lord_Howe", "2024-04-07 01:45:00", "2024-04-06 14:45:00"),  # put back by half an hour
        ("Europe/Berlin", "2024-07-01 12:00:00+00:00", "2024-07-01 12:00:00"),  # an offset of its own
    ],
)
def test_local_time_is_converted_to_utc(zone: str, local: str, utc: str) -> None:
    assert time_reader("iso", zone)(local) == at(utc)
    if "+" not in local:
        assert time_reader("%Y-%m-%d %H:%M:%S", zone)(local) == at(utc)


@cases("local", ["2024-03-31 02:00:00", "2024-03-31 02:30:00", "2024-03-31 02:59:59.999"])
def test_local_time_skipped_by_clock_change_is_rejected(local: str) -> None:
    with pytest.raises(BadRow) as refused:
        time_reader("iso", "Europe/Berlin")(local)
    assert refused.value.reason == "ts_not_in_zone"
