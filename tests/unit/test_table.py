"""A CSV's rows have an end, in characters and in columns, wherever they are read, and else are what Python's are."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.schema.errors import UsageError
from drawdown.worker.parity.totals import read_file
from drawdown.worker.provider.vendors import read_bills
from drawdown.worker.sources import table
from drawdown.worker.sources.table import MAX_ROW_CHARS, MOST_COLUMNS, Table, Unfit
from tests.whole import share

BILLS = "day,vendor,service,amount,currency\n2026-01-01,v,s,1,USD\n"
TOTALS = "day,org_id,seconds\n2026-01-01,acme,1\n"
READERS: list[tuple[str, Callable[[str], object]]] = [
    (BILLS, lambda name: read_bills(name, is_final=False)),
    (TOTALS, read_file),
]
FIRST_AND_LATER = [
    pytest.param(*READERS[0], True, id="bills-first"),
    pytest.param(*READERS[1], False, id="totals-later"),
    pytest.param(*READERS[0], False, id="bills-later"),
    pytest.param(*READERS[1], True, id="totals-first"),
]
MIB = 1 << 20


@given(st.text(alphabet='a, "\r\n\u2028\u00e9', max_size=60))
def test_csv_table_rows_equal_rows_of_python_csv(text: str) -> None:
    wanted, found = csv.reader(io.StringIO(text, newline=""), strict=True), Table(text)
    while True:
        try:
            row = next(wanted, None)
        except csv.Error:
            with pytest.raises(Unfit, match="not valid CSV"):
                next(found)
            return
        assert (next(found, None), found.line) == (row, wanted.line_num)
        if row is None:
            return


@pytest.mark.parametrize(("head", "read", "is_first"), share(FIRST_AND_LATER[:2], whole=FIRST_AND_LATER))
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("," * (32 * MIB), "does not end"),
        (
            '"' + ("x" * 99 + "\n") * 300_000,
            "not valid CSV|does not end",
        ),  # by the limit of a field, where it is the default
        (('"' + ("x" * 99 + "\n") * 1_000 + '",') * 300, "does not end"),
        ("x" * (32 * MIB), "does not end"),
        ("," * (MOST_COLUMNS * 9), "columns"),
    ],
    ids=["commas", "a-quote", "quotes", "a-line", "columns"],
)
def test_csv_table_endless_row_is_refused_with_bounded_memory(
    tmp_path: Path, head: str, read: Callable[[str], object], text: str, says: str, is_first: bool
) -> None:
    file = tmp_path / "it.csv"
    file.write_text(text if is_first else head + text)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=says) as told:
            read(str(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "it.csv, line " in str(told.value) and len(str(told.value)) < 1_000
    assert peak < 110 * MIB, "room for the bytes of a file, its text, and little more"
    if says == "columns" or text[0] in ",x":
        assert f"line {1 if is_first else 3}: " in str(told.value)


def test_csv_table_row_at_limit_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_ROW_CHARS", 8)
    monkeypatch.setattr(table, "MOST_COLUMNS", 3)
    assert list(Table('1,2,345\n1,"\n\n",\n\n123456\r\n')) == [["1", "2", "345"], ["1", "\n\n", ""], [], ["123456"]]
    for text in ("1,2,3456\n", '1,"\n\n\n\n"\n', "12345678\r", "123456789"):
        with pytest.raises(Unfit, match="within 8 characters"):
            list(Table(text))
    with pytest.raises(Unfit, match="too many columns: 4"):
        list(Table("1,2,3,4\n"))
    assert MAX_ROW_CHARS == MIB
