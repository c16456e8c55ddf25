"""Lines of a file: for spreadsheets, or for programs.

Guarantee: no text is taken for a formula by a spreadsheet, and a program is given it as it is; numbers are plain, and
decimals texts, so that none is rounded on its way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from drawdown.schema.text import no_formula

Form = Literal["csv", "jsonl"]
FORMS: Final[tuple[Form, ...]] = ("csv", "jsonl")
"""The forms of a file, by the end of its path."""


PLAIN: Final = re.compile("[0-9A-Za-z][ ,-:@-Z_a-z]*").fullmatch
"""Matches a text that is a cell as it is: no formula, and nothing to escape. Most are so, and a file has many."""


class Line(str):
    """A line of CSV that knows its cells."""

    __slots__ = ("cells",)
    cells: tuple[str | int | None, ...]


def csv_line(texts: Sequence[str | None], numbers: Sequence[int | str | None] = ()) -> Line:
    """Return one line: texts that any person may have written, then our numbers.

    The first line of a file has its names.
    """
    cells = [f'"{text if PLAIN(text) else _escaped(text)}"' if text else '""' for text in texts]
    line = Line(",".join([*cells, *["" if number is None else str(number) for number in numbers]]) + "\n")
    line.cells = (*texts, *numbers)
    return line


def _escaped(text: str) -> str:
    return no_formula(text).replace('"', '""')


def as_json(lines: Iterator[str]) -> Iterator[str]:
    """Return the lines as JSON, an object each; a line that `csv_line` did not make is JSON already."""
    names: tuple[str | int | None, ...] = ()
    for line in lines:
        if not isinstance(line, Line):
            yield line
        elif not names:
            names = line.cells
        else:
            yield json.dumps(dict(zip(names, line.cells, strict=True))) + "\n"
