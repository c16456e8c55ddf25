"""Text that others wrote, fit to be stored and shown.

Guarantee: the result has no control character (ESC, NUL, a line's end), no mark that turns the direction of reading,
and no half of a surrogate pair, which PostgreSQL would not store: each stands there as its escape.
"""

from __future__ import annotations

import re
from typing import Final

MAX_ERROR_CHARS: Final = 300
"""Of an error's first line: enough to know it by."""


_FORMULA: Final = re.compile('((?:^|;)[ "]*)(?=[=+@\\-\uff1d\uff0b\uff0d\uff20])')
"""Where one begins: some spreadsheets take wide signs, too."""


def clean(text: str, most_chars: int | None = None) -> str:
    """The text with all that does not print escaped, cut to `most_chars`."""
    if most_chars is not None and len(text) > most_chars:
        text = f"{text[: max(most_chars - 1, 0)]}…"
    if text.isprintable():
        return text
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return shown if most_chars is None else shown[:most_chars]


def no_formula(text: str) -> str:
    """A text for a cell of a spreadsheet, clean, which none takes for a formula: an apostrophe stands before what could
    begin one. Also after a semicolon: where numbers have commas, that parts the cells."""
    shown = _FORMULA.sub(r"\1'", clean(text))
    return f"'{shown}" if shown[:1] == "'" and text[:1] == "'" else shown


def in_short(error: BaseException) -> str:
    """An error's kind and first line: what follows may hold a statement, or others' values."""
    first = str(error).partition("\n")[0]
    return clean(f"{type(error).__name__}: {first}", MAX_ERROR_CHARS)
