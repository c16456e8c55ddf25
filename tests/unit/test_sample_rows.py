"""One row in, one sample or one reason out: every row of the table of bad input, and what is as good as right."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.schema.errors import UsageError
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_MEMORY_MB
from drawdown.worker.sources.samples.rows import (
    FIELDS,
    SAMPLE_FIELDS,
    BadRow,
    ImportOptions,
    RowReader,
    Sample,
    content,
    meaning,
    plain,
)
from tests.cases import cases

NOW = 1_733_700_000_000  # 2024-12-08T23:20:00Z
GOOD = ["s1", "acme", "sb1", "c1", "1024", "2", "60", "2024-11-15 16:57:50"]
GOOD_TS = 1_731_689_870_000


def reader(**options: object) -> RowReader:
    return RowReader("usage.csv", FIELDS, ImportOptions(**options), None, NOW)  # type: ignore[arg-type]


def with_field(name: str, text: str) -> list[str]:
    row = list(GOOD)
    row[FIELDS.index(name)] = text
    return row


def test_sample_fields_have_order_of_columns() -> None:
    assert tuple(SAMPLE_FIELDS) == FIELDS


def test_sample_row_valid_is_read() -> None:
    assert reader()(GOOD, 2) == ("s1", "acme", "sb1", "c1", 1024, "2", 60, GOOD_TS, NOW)


@cases(
    ("name", "text", "reason"),
    [
        ("interval_s", "-1", "interval_negative"),
        ("interval_s", "-1e999999", "interval_negative"),
        ("interval_s", "12.5", "interval_fractional"),
        ("interval_s", "1e-999999", "interval_fractional"),
        ("interval_s", "86401", "interval_over_a_day"),
        ("interval_s", "86400.5", "interval_over_a_day"),
        ("interval_s", "1e999999", "interval_over_a_day"),
        ("interval_s", "9" * 90, "interval_over_a_day"),
        ("interval_s", "", "interval_missing"),
        ("interval_s", "  ", "interval_missing"),
        ("interval_s", "nan", "interval_not_a_number"),
        ("interval_s", "inf", "interval_not_a_number"),
        ("interval_s", "-Infinity", "interval_not_a_number"),
        ("interval_s", "a minute", "interval_not_a_number"),
        ("interval_s", "1_000", "interval_not_a_number"),
        ("interval_s", "٣٢", "interval_not_a_number"),
        ("interval_s", "0x10", "interval_not_a_number"),
        ("interval_s", "1e9999999", "interval_not_a_number"),
        ("interval_s", "1" * 1_000_000, "interval_not_a_number"),
        ("memory_mb", "", "memory_missing"),
        ("memory_mb", "-1", "memory_out_of_bounds"),
        ("memory_mb", str(MAX_MEMORY_MB + 1), "memory_out_of_bounds"),
        ("memory_mb", "1024.5", "memory_fractional"),
        ("memory_mb", "4 GB", "memory_not_a_number"),
        ("cpu_count", "-1", "cpu_out_of_bounds"),
        ("cpu_count", "1e999999", "cpu_out_of_bounds"),
        ("cpu_count", "two", "cpu_not_a_number"),
        ("ts", "", "ts_missing"),
        ("ts", "yesterday", "ts_unreadable"),
        ("ts", "2024-13-01 00:00:00", "ts_unreadable"),
        ("ts", "1731689870", "ts_unreadable"),
        ("ts", "20241115", "ts_unreadable"),
        ("ts", "1999-12-31 23:59:59.999", "ts_before_2000"),
        ("ts", "0001-01-01 00:00:00+14:00", "ts_before_2000"),
        ("ts", "9999-12-31 23:59:59-14:00", "ts_in_the_future"),
        ("ts", "2024-12-08 23:25:00.001", "ts_in_the_future"),
        *((name, "", f"bad_{name}") for name in FIELDS[:4]),
        *((name, "x" * 201, f"bad_{name}") for name in FIELDS[:4]),
        *(("org_id", f"a{mark}b", "bad_org_id") for mark in "\x00\x01\t\n\x1f\x7f\x80\x85\x9f\ud800"),
        ("id", "a\x00", "bad_id"),
        ("sandbox_id", "\x85", "bad_sandbox_id"),
        ("cell_id", "c\x1b[31m", "bad_cell_id"),
    ],
)
def test_sample_row_invalid_field_is_rejected_with_reason(name: str, text: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadRow) as refused:
        reader()(with_field(name, text), 2)
    assert (refused.value.column, refused.value.reason, refused.value.text) == (name, reason, text)
    assert meaning(reason)
    assert time.monotonic() - began < 1, "no number, however large, is ever written out"


@cases(("count", "reason"), [(7, "too_few_columns"), (9, "too_many_columns"), (1, "too_few_columns")])
def test_sample_row_with_other_number_of_fields_is_rejected(count: int, reason: str) -> None:
    with pytest.raises(BadRow) as refused:
        reader()([*GOOD, "x"][:count], 2)
    assert refused.value.reason == reason


def test_sample_row_with_several_faults_names_first_by_database_order() -> None:
    with pytest.raises(BadRow) as refused:
        reader()(["s1", "", "sb", "c", "x", "x", "-1", ""], 2)
    assert refused.value.reason == "bad_org_id"


@cases(
    ("text", "seconds"),
    [
        ("32", 32),
        ("32.0", 32),
        ("3.2e1", 32),
        ("+32", 32),
        (" 32 ", 32),
        ("0", 0),
        ("-0", 0),
        ("0e999999", 0),
        ("86400", 86_400),
        ("86400.000", 86_400),
        ("864E2", 86_400),
        ("32.", 32),
        ("320e-1", 32),
    ],
)
def test_interval_in_any_notation_of_whole_seconds_is_read(text: str, seconds: int) -> None:
    assert reader()(with_field("interval_s", text), 2)[6] == seconds


@cases("text", ["x", "x" * 200, "ü", "名前", "😀" * 200, "a b", "a\u00a0b", "'; DROP TABLE orgs; --", "a,b", 'a"b'])
def test_sample_ids_of_printable_characters_are_accepted(text: str) -> None:
    row = [text, text, text, text, *GOOD[4:]]
    assert reader()(row, 2)[:4] == (text,) * 4


@cases(
    ("text", "kept"),
    [
        ("", None),
        ("2", "2"),
        ("2.50", "2.5"),
        ("0.1", "0.1"),
        ("0", "0"),
        ("100", "100"),
        ("1e-9", "0.000000001"),
        ("0.33333333333333331", "0.333333333"),
        ("100000", "100000"),
    ],
)
def test_cpu_count_is_normalised(text: str, kept: str | None) -> None:
    assert reader()(with_field("cpu_count", text), 2)[5] == kept


@given(st.decimals(0, 100_000, places=9))
def test_cpu_count_survives_conversion_to_float(number: Decimal) -> None:
    assert plain(Decimal(str(float(plain(number))))) == plain(number)


def test_sample_time_bounds_are_inclusive() -> None:
    read = reader(time_format="ms")
    for ts in (EARLIEST_TS, NOW + FUTURE_SLACK_MS):
        assert read(with_field("ts", str(ts)), 2)[7] == ts


@cases(
    ("options", "said"),
    [
        ({"columns": {"organisation": "x"}}, "unknown field 'organisation'"),
        ({"constants": {"ts_ms": "1"}}, "unknown field 'ts_ms'"),
        ({"constants": {"id": "1"}}, "same id"),
        ({"columns": {"cell_id": "x"}, "constants": {"cell_id": "c"}}, "cell_id has two sources"),
        ({"columns": {"id": "x"}, "id_from_line": True}, "id has two sources"),
        ({"time_format": "rfc"}, "--time-format 'rfc'"),
        ({"time_format": "%Q"}, "--time-format '%Q'"),
        ({"time_format": "%Y %Y"}, "--time-format '%Y %Y'"),
        ({"zone": "Mars/Olympus"}, "--zone 'Mars/Olympus'"),
        ({"zone": "../etc/passwd"}, "--zone '../etc/passwd'"),
        ({"zone": ""}, "--zone"),
        ({"format": "xlsx"}, "--format 'xlsx'"),
        ({"chunk_rows": 0}, "expected 1 or more rows"),
    ],
)
def test_import_invalid_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as wrong:
        ImportOptions(**options)  # type: ignore[arg-type]
    assert said in str(wrong.value)


@cases(("name", "text"), [("cell_id", ""), ("memory_mb", "4G"), ("ts", "1999-01-01")])
def test_import_invalid_constant_is_refused(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"--set {name}="):
        reader(constants={name: text})


def test_import_missing_column_error_suggests_map() -> None:
    with pytest.raises(UsageError) as wrong:
        RowReader("u.csv", ["id", "groupId"], ImportOptions(), None, NOW)
    assert str(wrong.value).startswith("u.csv: missing column 'org_id' for org_id: the file has id, groupId.")
    assert "--map org_id=COLUMN" in str(wrong.value)


def test_import_maps_columns_constants_and_line_ids() -> None:
    options = ImportOptions(
        columns={"org_id": "who", "sandbox_id": "who", "interval_s": "took", "ts": "when"},
        constants={"cell_id": "c1", "memory_mb": "4096"},
        id_from_line=True,
    )
    read = RowReader("u.csv", ["when", "ignored", "took", "who"], options, "u", NOW)
    row = ["2024-11-15 16:57:50", "\x00 anything", "32.0", "G1"]
    assert read(row, 7) == ("u:7", "G1", "G1", "c1", 4096, None, 32, GOOD_TS, NOW)


def sample(**changes: object) -> Sample:
    base: dict[str, object] = dict(zip(FIELDS, ("s", "o", "b", "c", 1, None, 1, GOOD_TS), strict=True)) | changes
    return (*base.values(), NOW)  # type: ignore[return-value]


def test_sample_content_is_canonical_without_id_and_arrival() -> None:
    expected = (
        f'{{"cell_id":"c","cpu_count":null,"interval_s":1,"memory_mb":1,"org_id":"o","sandbox_id":"b","ts":{GOOD_TS}}}'
    )
    assert content(sample()) == content(sample(id="t")) == expected


@cases("name", FIELDS[1:])
def test_sample_content_contains_every_field(name: str) -> None:
    assert content(sample(**{name: "7"})) != content(sample())


def test_sample_content_is_bounded_and_distinguishes_long_ids() -> None:
    long = "😀" * 199
    one, other = (content(sample(org_id=long + end, sandbox_id=long, cell_id=long)) for end in "ab")
    assert one != other
    assert len(one.encode()) < 1600
