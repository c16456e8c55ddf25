"""Lines of a file for spreadsheets. Guarantee: no text is taken for a formula; numbers are plain."""

from __future__ import annotations

from collections.abc import Sequence

from drawdown.schema.text import no_formula


def csv_line(texts: Sequence[str | None], numbers: Sequence[int | str | None] = ()) -> str:
    """One line: texts that anybody may have written, then numbers of ours."""
    cells = ['"' + no_formula(text or "").replace('"', '""') + '"' for text in texts]
    return ",".join([*cells, *("" if number is None else str(number) for number in numbers)]) + "\n"
