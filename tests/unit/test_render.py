"""Tables: plain where nobody looks; in a terminal of any width, keys, ids and times stay whole.

A line's end inside a cell is shown as its escape: it starts no row, and two ids that differ in it look different.
"""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from drawdown.cli.app import App
from drawdown.cli.rendering import show, table
from drawdown.cli.settings import Settings
from drawdown.schema.clock import FixedClock
from drawdown.schema.text import MAX_VALUE_CHARS, counted, no_formula, quote_value
from drawdown.schema.units import counted_credits
from tests.cases import cases

KEY = "usage:organisation-of-some-length:1767225600000:compute_4gb:r1"
TIME = "2026-01-01T00:00:00.123Z"
WHY = "the provider said a great many words, none of which should make a key or a time break into two"
ROWS = [(KEY, TIME, 12_345_678, None, WHY), ("k[bold]2", "-", -1, True, "two\nlines")]


def printed(width: int, *, terminal: bool, rows: object = ROWS) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None, soft_wrap=True)
    console.print(table("Pushes", ("key", "at", "#quantity", "late", "why"), rows))  # type: ignore[arg-type]
    return out.getvalue()


@cases("width", [20, 80, 400])
def test_table_piped_prints_line_per_row_at_any_width(width: int) -> None:
    assert printed(width, terminal=False).splitlines() == [
        "Pushes",
        f"{'key':62}  {'at':24}    quantity  late  why",
        f"{KEY}  {TIME}  12,345,678  -     {WHY}",
        f"{'k[bold]2':62}  {'-':24}          -1  yes   two\\nlines",
        "",
    ]


@cases("width", [20, 80, 100, 400])
def test_table_in_terminal_wraps_only_words(width: int) -> None:
    said = printed(width, terminal=True)
    assert KEY in said and TIME in said and "12,345,678" in said and "k[bold]2" in said
    assert all(word in said for word in WHY.split())


def test_table_in_wide_terminal_fits_its_width() -> None:
    assert max(map(len, printed(160, terminal=True).splitlines())) <= 160


def test_table_without_rows_shows_columns() -> None:
    assert printed(80, terminal=False, rows=[]).splitlines() == ["Pushes", "key  at  quantity  late  why", ""]


def test_spreadsheet_cell_is_escaped_against_formulas() -> None:
    for text, shown in {
        "=1+1": "'=1+1", "-1": "'-1", "'5": "''5", "a=b": "a=b", "\t=x": "\\t=x", "\u202efdp.exe": "\\u202efdp.exe",
        "\x1b[2J": "\\x1b[2J", "": "",
    }.items():  # fmt: skip
        assert no_formula(text) == shown


def test_quoted_value_is_shortened_and_escaped() -> None:
    values = {"a'b": '"a\'b"', "": "''", 7: "'7'", "\x1b[2J\u202e": "'\\x1b[2J\\u202e'"}
    assert {value: quote_value(value) for value in values} == values
    full, longer = "x" * MAX_VALUE_CHARS, "x" * (MAX_VALUE_CHARS + 1)
    assert quote_value(full) == f"'{full}'" and quote_value(longer) == f"'{full[:-1]}…'"


def test_quoted_value_nested_too_deeply_is_named_by_type() -> None:
    nested: list[object] = []
    for _ in range(sys.getrecursionlimit()):
        nested = [nested]
    assert quote_value(nested) == "'a nested list'"


def test_counted_noun_is_singular_only_for_count_of_1() -> None:
    assert [counted(number, "push", "pushes") for number in (0, 1, 2_000)] == ["0 pushes", "1 push", "2,000 pushes"]
    assert [counted(number, "sample") for number in (1, 2)] == ["1 sample", "2 samples"]


def test_counted_credits_are_singular_only_for_exactly_1_credit() -> None:
    amounts = [counted_credits(micro) for micro in (0, 1_000_000, 1_500_000, -1_000_000)]
    assert amounts == ["0 credits", "1 credit", "1.5 credits", "-1 credits"]


def test_name_between_colons_is_not_shown_as_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    show(App(Settings(), FixedClock(0)), {}, ["org a:smile:b"])
    assert capsys.readouterr().out == "org a:smile:b\n"


@cases("terminal", [True, False])
def test_names_that_differ_in_blanks_are_shown_differently(terminal: bool) -> None:
    names = ("prod", "prod ", " prod", "a b", "a  b", "a   b")
    said = printed(100, terminal=terminal, rows=[(name, "-", 1, True, "") for name in names])
    shown = [line[: line.index("-")].strip() for line in said.splitlines() if "  - " in line]
    assert shown == ["prod", "prod\\x20", "\\x20prod", "a b", "a \\x20b", "a \\x20\\x20b"]
