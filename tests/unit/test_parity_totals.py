"""Totals of cells are read exactly, or refused by their place; differences are exact."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS
from drawdown.worker.parity import totals
from drawdown.worker.parity.parity import Ours, apart, compare
from drawdown.worker.parity.totals import BadTotal, Days, day_text, of_answer, read_file
from tests.cases import cases

DAY = "2026-01-01"
DAY_AT = 1_767_225_600_000


def read(text: str | bytes) -> Days:
    return read_file("-", io.BytesIO(text if isinstance(text, bytes) else text.encode()))


def test_parity_totals_in_csv_and_json_lines_are_equal() -> None:
    rows = [
        {"day": DAY, "org_id": "acme", "memory_mb": 1024, "seconds": 60},
        {"day": DAY, "org_id": 'a "b", c', "seconds": 0},
        {"day": "2026-01-02", "org_id": "acme", "cell_id": "cell-1", "seconds": 7},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    table = (
        f'\ufeffday,org_id,seconds,memory_mb,cell_id\r\n{DAY},acme,60,1024,\r\n{DAY},"a ""b"", c",0,,\r\n'
        "\r\n2026-01-02,acme,7,,cell-1\r\n"
    )
    wanted: Days = {
        (DAY_AT, ""): {"acme": {1024: 60}, 'a "b", c': {None: 0}},
        (DAY_AT + DAY_MS, "cell-1"): {"acme": {None: 7}},
    }
    assert read(lines) == read(table) == wanted


@cases(
    ("text", "says"),
    [
        ("", "invalid columns: expected day"),
        ("day,org_id\n", "invalid columns: expected day"),
        ("day,org_id,seconds,price\n", "invalid columns: expected day"),
        ("day,org_id,seconds,seconds\n", "invalid columns: expected day"),
        ("day,org_id,seconds\n", "line 1: the file does not have totals"),
        (f"day,org_id,seconds\n{DAY},acme\n", "line 2: expected 3 columns, as in the first line, and found 2. The"),
        (f"day,org_id,seconds\n{DAY},acme,1,2\n", "line 2: expected 3 columns, as in the first line, and found 4"),
        (f"day,org_id,seconds\n{DAY},acme,1\n{DAY},acme,1\n", "line 3: acme has more than one total for 2026-01-01"),
        (f"day,org_id,memory_mb,seconds\n{DAY},acme,5,1\n{DAY},acme,5,1\n", "acme at 5 MB has more than one total"),
        (f"day,org_id,memory_mb,seconds\n{DAY},acme,5,1\n{DAY},acme,,1\n", "acme has more than one total"),
        (f"day,org_id,memory_mb,seconds\n{DAY},acme,,1\n{DAY},acme,5,1\n", "acme at 5 MB has more than one total"),
        (f"day,org_id,cell_id,seconds\n{DAY},acme,c,1\n{DAY},globex,,1\n", "with a cell_id and totals without"),
        (f'day,org_id,seconds\n{DAY},"acme,1\n', "not valid CSV"),
        (f"day,org_id,seconds\n{DAY},ac\x1bme,1\n", "line 2: invalid org_id"),
        (f"day,org_id,seconds\n{DAY},{'a' * 201},1\n", "line 2: invalid org_id"),
        *((f"day,org_id,seconds\n{DAY},acme,{wrong}\n", "line 2: invalid seconds '")
          for wrong in ("", "-1", "1.0", "1e3", " 1", "٣", "10000000000000001", "9" * 5_000, "NaN")),
        *((f"day,org_id,seconds\n{wrong},acme,1\n", "line 2: invalid day")
          for wrong in ("", "2026-1-1", "20260101", "2026-02-30", "2026-01-01T00:00", "2026-W01-4")),
        (f"day,org_id,memory_mb,seconds\n{DAY},acme,16777217,1\n", "line 2: invalid memory_mb"),
        ('{"day": "2026-01-01", "org_id": "acme", "seconds": 1, "seconds": 2}', "line 1: duplicate field in a JSON"),
        ('{"day": "2026-01-01", "org_id": "acme", "seconds": true}', "line 1: invalid seconds"),
        ('{"day": "2026-01-01", "org_id": "acme", "seconds": 1.0}', "line 1: invalid seconds"),
        ('{"day": "2026-01-01", "org_id": "acme", "seconds": 1e999}', "line 1: invalid seconds"),
        ('{"day": 20260101, "org_id": "acme", "seconds": 1}', "line 1: invalid day"),
        ('{"day": "2026-01-01", "org_id": ["acme"], "seconds": 1}', "line 1: invalid org_id"),
        ('{"day": "2026-01-01", "org_id": "acme", "cell_id": 7, "seconds": 1}', "line 1: invalid cell_id"),
        ('{"day": "2026-01-01", "org_id": "acme", "seconds": 1, "paid": 1}', "line 1: unknown field 'paid'"),
        ('{"day": "2026-01-01", "org_id": "acme", "seconds": 1}\n[]', "line 2: not a JSON object"),
        ('{"day": ' + "[" * 100_000, "line 1: not a JSON object"),
        (f"day,org_id,seconds\n{DAY},acme,1\n{DAY}", "line 3: expected 3 columns, as in the first"),
        ('{"day": "2026-01-01", "org_id": "ac', "line 1: not a JSON object: the line may be cut off"),
        ('{"day": ' + "9" * 10_000 + "}", "line 1: not JSON"),
        (b"day,org_id,seconds\n\xff", "is not UTF-8 at byte 19"),
    ],
)  # fmt: skip
def test_parity_totals_invalid_file_is_refused_with_line(text: str | bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        read(text)


def test_parity_totals_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_file(str(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match="larger than 64 MiB"):
        read_file("/dev/zero")
    monkeypatch.setattr(totals, "MAX_TOTALS", 2)
    rows = [f"{DAY},org-{number},1" for number in range(3)]
    with pytest.raises(UsageError, match="line 4: the file has more than 2 totals"):
        read("\n".join(["day,org_id,seconds", *rows]))
    assert len(read("\n".join(["day,org_id,seconds", *rows[:2]]))[DAY_AT, ""]) == 2
    monkeypatch.setattr(totals, "MAX_DAYS", 1)
    with pytest.raises(UsageError, match="more than 1 days"):
        read(f"day,org_id,seconds\n{DAY},acme,1\n2026-01-02,acme,1\n")


def answer(**said: object) -> bytes:
    return json.dumps({"cell_id": "cell-1", "day": DAY, "usage": [], **said}).encode()


def test_parity_answer_of_cell_is_read_exactly() -> None:
    usage = [{"org_id": "acme", "memory_mb": 1024, "seconds": 60}, {"org_id": "acme", "memory_mb": 2048, "seconds": 1}]
    assert of_answer(answer(usage=usage), "cell-1", DAY_AT) == {"acme": {1024: 60, 2048: 1}}
    assert of_answer(answer(), "cell-1", DAY_AT) == {}
    assert of_answer(answer(version=2), "cell-1", DAY_AT) == {}, "a cell may say more beside"


ROW = {"org_id": "acme", "seconds": 1}


@cases(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        answer()[:-1],
        answer(cell_id="cell-2"),
        answer(day="2026-01-02"),
        answer(usage=None),
        answer(usage={"acme": 1}),
        answer(usage=["acme"]),
        answer(usage=[ROW, ROW]),
        answer(usage=[ROW, {**ROW, "memory_mb": 1}]),
        answer(usage=[{**ROW, "seconds": "x"}]),
        answer(usage=[{**ROW, "seconds": -1}]),
        answer(usage=[{**ROW, "seconds": 10**16}]),
        answer(usage=[{**ROW, "seconds": None}]),
        answer(usage=[{**ROW, "day": "2026-01-02"}]),
        answer(usage=[{**ROW, "cell_id": "cell-2"}]),
        answer(usage=[{"org_id": "acme"}]),
        answer(usage=[{"org_id": "", "seconds": 1}]),
        answer(usage=[{"org_id": "a\u001bb", "seconds": 1}]),
    ],
)
def test_parity_answer_incomplete_or_of_other_cell_is_rejected(body: bytes) -> None:
    with pytest.raises(BadTotal):
        of_answer(body, "cell-1", DAY_AT)


def test_parity_answer_above_most_totals_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_ANSWER_TOTALS", 1)
    assert of_answer(answer(usage=[ROW]), "cell-1", DAY_AT) == {"acme": {None: 1}}
    with pytest.raises(BadTotal, match="more than 1 totals"):
        of_answer(answer(usage=[ROW, {**ROW, "org_id": "globex"}]), "cell-1", DAY_AT)
    with pytest.raises(BadTotal, match="more than 1 totals"):
        of_answer(b"[" * 17, "cell-1", DAY_AT)


@cases(
    "body",
    [
        b"{" + b",".join(b'"%d":0' % number for number in range(99)) + b"}",
        b'{"usage":[' + b"0," * 99 + b"0]}",
        b'{"usage":[' + b'"{\\"[",' * 99 + b"0]}",
        b'{"usage":[' + b"[]," * 99 + b"0]}",
        b'{"a":' * 99,
    ],
)
def test_parity_answer_with_too_many_values_is_rejected_before_parsing(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "MAX_ANSWER_TOTALS", 10)
    monkeypatch.setattr(totals, "json", None)
    with pytest.raises(BadTotal, match="more than 10 totals"):
        of_answer(body, "cell-1", DAY_AT)


@cases("rest", [b'"' * 4_000_000, b'"' + b'\\"' * 2_000_000, b"x" * 4_000_000])
def test_parity_answer_counting_is_linear(rest: bytes) -> None:
    began = time.process_time()
    with pytest.raises(BadTotal, match="not JSON"):
        of_answer(b'"' + b"," * 1_000_000 + b'"' + rest, "cell-1", DAY_AT)
    assert time.process_time() - began < 5


@cases("org", ["urn:org:a:b:c:d:e:f,g,h[{i", 'a","b":{"c', '\\"' * 9])
def test_parity_answer_separators_in_org_id_are_not_counted(org: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_ANSWER_TOTALS", 10)
    rows = [{"org_id": f"{org}{number}", "memory_mb": 1024, "seconds": 1} for number in range(10)]
    assert len(of_answer(answer(usage=rows), "cell-1", DAY_AT)) == 10


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_parity_random_bytes_are_rejected_or_read(body: bytes) -> None:
    for work in (lambda: of_answer(body, "cell-1", DAY_AT), lambda: read(body)):
        try:
            work()
        except (BadTotal, UsageError) as error:
            assert str(error)


SIZES = st.dictionaries(st.sampled_from([0, 512, 1024, 4096]), st.integers(0, 10**15), max_size=4)


@given(
    st.dictionaries(st.sampled_from("abc"), SIZES),
    st.dictionaries(st.sampled_from("abc"), SIZES),
    st.integers(0, 10**6),
)
def test_parity_differences_are_exact_for_every_org(
    theirs: dict[str, dict[int | None, int]], ours: dict[str, dict[int | None, int]], tolerance: int
) -> None:
    mine: Mapping[str, Ours] = {org: Ours(used, {}) for org, used in ours.items()}
    whole, *lines = compare(DAY_AT, "cell-1", theirs, mine, (), tolerance)
    assert [line.org_id for line in lines] == sorted({*theirs, *ours})
    assert whole.theirs == sum(sum(sizes.values()) for sizes in theirs.values())
    assert whole.ours == sum(sum(sizes.values()) for sizes in ours.values())
    for line in lines:
        there, here = theirs.get(line.org_id, {}), ours.get(line.org_id, {})
        off, larger = apart(there, here)
        assert off >= abs(sum(there.values()) - sum(here.values()))
        if line.verdict in ("only_here", "only_there"):
            assert (line.org_id in theirs) is not (line.org_id in ours) and off and line.ppm is None
        else:
            share = Fraction(off, larger) if off else Fraction(0)
            assert (line.verdict == "differs") is (share > Fraction(tolerance, 1_000_000))
            assert (line.verdict == "equal") is (off == 0 <= tolerance)


def test_parity_day_text_equals_day_read() -> None:
    assert day_text(DAY_AT) == DAY and day_text(DAY_AT + DAY_MS - 1) == DAY
