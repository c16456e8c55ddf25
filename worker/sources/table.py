"""Read the rows of a CSV text. Pure.

Guarantee: the memory of a row is bounded for any content. A line without an end, a quoted field that never closes, and
a row with only separators are errors before the row becomes fields.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Final

MAX_ROW_CHARS: Final = 1_048_576
"""Most characters in one row of a CSV of bills or totals."""
MOST_COLUMNS: Final = 1_000
"""Most columns in a CSV of bills or totals.

The widest known export has far fewer.
"""
_LINE: Final = re.compile(r"[^\r\n]*+(?:\r\n?|\n)?")


class Unfit(ValueError):
    """Raised if a row is invalid. `line`: the number of its line."""

    def __init__(self, line: int, said: str) -> None:
        super().__init__(said)
        self.line = line


class Table:
    """An iterator over the rows of a CSV.

    `line`: the line at which the last row ended. Errors: Unfit.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._row_at = 0
        self._reader = csv.reader(self._read_lines(), strict=True)

    @property
    def line(self) -> int:
        return self._reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        self._row_at = self._at
        try:
            row = next(self._reader)
        except csv.Error as error:
            raise Unfit(self.line, f"not valid CSV: {error}") from error
        if len(row) > MOST_COLUMNS:
            raise Unfit(self.line, f"too many columns: {len(row):,}. Expected at most {MOST_COLUMNS:,}")
        return row

    def _read_lines(self) -> Iterator[str]:
        """Yield lines with their line breaks.

        A quoted field may contain line breaks. Errors: Unfit.
        """
        while self._at < len(self._text):
            most = self._row_at + MAX_ROW_CHARS
            found = _LINE.match(self._text, self._at, most + 1)
            end = self._at if found is None else found.end()
            if end > most:
                raise Unfit(self.line + 1, f"the row does not end within {MAX_ROW_CHARS:,} characters")
            line, self._at = self._text[self._at : end], end
            yield line
