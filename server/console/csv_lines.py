"""Write the rows of a file as CSV for spreadsheets, or as JSON for programs.

Guarantee: a spreadsheet does not read a text as a formula, and JSON contains each text unchanged. Numbers do not have
separators. Decimals are texts, so that programs do not round them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from drawdown.schema.text import no_formula

Form = Literal["csv", "jsonl"]
FORMS: Final[tuple[Form, ...]] = ("csv", "jsonl")
"""Formats of a file, by the end of its path."""


PLAIN: Final = re.compile("[0-9A-Za-z][ ,-:@-Z_a-z]*").fullmatch
"""Matches a text that is not a formula and can stay unescaped.

Most texts match, so Drawdown writes a file fast.
"""


class Line(str):
    """A line of CSV, with its cells."""

    __slots__ = ("cells",)
    cells: tuple[str | int | None, ...]


def csv_line(texts: Sequence[str | None], numbers: Sequence[int | str | None] = ()) -> Line:
    """Return a line of CSV: first texts, then numbers.

    The texts may come from any person, so they are escaped. The first line of a file has the names of the columns.
    """
    cells = [f'"{text if PLAIN(text) else _escaped(text)}"' if text else '""' for text in texts]
    line = Line(",".join([*cells, *["" if number is None else str(number) for number in numbers]]) + "\n")
    line.cells = (*texts, *numbers)
    return line


def _escaped(text: str) -> str:
    return no_formula(text).replace('"', '""')


def as_json(lines: Iterator[str]) -> Iterator[str]:
    """Return the lines as JSON, one object for each line.

    The first line from `csv_line` has the names. A line that does not come from `csv_line` is already JSON.
    """
    names: tuple[str | int | None, ...] = ()
    for line in lines:
        if not isinstance(line, Line):
            yield line
        elif not names:
            names = line.cells
        else:
            yield json.dumps(dict(zip(names, line.cells, strict=True))) + "\n"
