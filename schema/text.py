"""Text of other programs, made safe to store and show.

Guarantee: each control character (ESC, NUL, a line end), and each mark that changes the direction of text, is replaced
by its escape. So is a half of a surrogate pair, which PostgreSQL does not store. The search for the nearest text to a
mistyped text is bounded. It first chooses COMPARED_AT_MOST texts by their common starts, ends and letters. It then
compares the part between the common start and end of each, up to MAX_COMPARED_CHARS.
"""

from __future__ import annotations

import heapq
import re
import shlex
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Final

from drawdown.schema.units import MAX_ID_CHARS

MAX_ERROR_CHARS: Final = 300
"""Most characters of an error's first line in reports and logs."""
NEEDS_YOU: Final = "needs you: "
"""Start of a reason that only a person can remove, by a setting.

Retries do not help.
"""
ALIKE: Final = 0.6
"""Smallest similarity of an unknown id and the id that it probably means.

It is difflib's ratio, which is 1 for equal texts.
"""
COMPARED_AT_MOST: Final = 20
"""Known ids that Drawdown compares, letter by letter, with an unknown id."""
MAX_COMPARED_CHARS: Final = 64
"""Most characters to compare of two ids, without their common start and end."""
MAX_VALUE_CHARS: Final = 60
"""Characters of an invalid value that an error quotes."""


_FORMULA: Final = re.compile('((?:^|;)[ "]*)(?=[=+@\\-\uff1d\uff0b\uff0d\uff20])')
"""The start of a formula in a spreadsheet.

Some spreadsheets accept wide signs, too.
"""


def clean(text: str, most_chars: int | None = None) -> str:
    """Return a text with its unprintable characters escaped, cut to `most_chars`."""
    if most_chars is not None and len(text) > most_chars:
        text = f"{text[: max(most_chars - 1, 0)]}…"
    if text.isprintable():
        return text
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return shown if most_chars is None else shown[:most_chars]


def escape_like(text: str) -> str:
    """Return a text as part of a LIKE pattern with ESCAPE '!'."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number and its noun, such as `1 push`.

    `many`: the plural; if it is empty, `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def no_formula(text: str) -> str:
    """Return a clean text that a spreadsheet does not read as a formula.

    An apostrophe is added before a sign that could begin a formula. It is also added after a semicolon, which separates
    the cells if numbers have commas. An apostrophe at the start of the text is doubled.
    """
    if text[:1].isalnum() and ";" not in text:  # a fast path for most texts
        return clean(text)
    shown = _FORMULA.sub(r"\1'", clean(text))
    return f"'{shown}" if shown[:1] == "'" and text[:1] == "'" else shown


def quote_value(value: object) -> str:
    """Return an invalid value in quotes, for an error.

    The value is cut to MAX_VALUE_CHARS, and its unprintable characters are escaped.
    """
    try:
        text = str(value)
    except RecursionError:  # a hostile response can be nested as deeply as its parser allows
        text = f"a nested {type(value).__name__}"
    return repr(text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 1]}…")


def in_short(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return an error's type and first line, without these secrets.

    Later lines may contain an SQL statement, or data of other customers.
    """
    text = str(error)
    for secret in secrets:  # first, because a cut or an escape would leave a part of a secret
        text = text.replace(secret, "…")
    first = text.partition("\n")[0]
    return clean(f"{type(error).__name__}: {first}", MAX_ERROR_CHARS)


def why_unread(error: Exception) -> str:
    """Return the reason why a text file cannot be read, for the person who named it."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return str(getattr(error, "strerror", None) or error)


def typed(*words: str) -> str:
    """Return a command line, quoted for a shell.

    Pass the arguments before the options. If an argument begins with a single `-`, the result has the options first,
    then `--`, then that argument and the arguments after it.
    """
    first = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    dashed = next((at for at, word in enumerate(words[:first]) if word.startswith("-")), None)
    if dashed is None:
        return shlex.join(words)
    return shlex.join((*words[:dashed], *words[first:], "--", *words[dashed:first]))


def nearest(given: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that was probably meant.

    The comparison ignores the case of letters. Return None if no candidate is similar.
    """
    wanted = given[: MAX_ID_CHARS + 1].casefold()
    by_text: dict[str, str] = {}
    for name in candidates:  # if two differ only in case, take the one that is more similar as written
        text = name[: MAX_ID_CHARS + 1].casefold()
        before = by_text.setdefault(text, name)
        if _roughly(given, name) > _roughly(given, before):
            by_text[text] = name
    likely = heapq.nlargest(COMPARED_AT_MOST, by_text, key=lambda text: _roughly(wanted, text))
    alike, text = max(((_alike(wanted, one), one) for one in likely), default=(0.0, ""))
    return by_text[text] if alike >= ALIKE else None


def _roughly(one: str, other: str) -> int:
    """Return an upper bound of the similarity of two texts.

    It compares only their ends and letters, because that is cheap.
    """
    return 2 * sum(_ends(one, other)) + 2 * len(set(one) & set(other)) - abs(len(one) - len(other))


def _ends(one: str, other: str) -> tuple[int, int]:
    """Return the number of characters that two texts share at each end.

    The end is compared without the shared start.
    """
    head = _begin(one, other)
    return head, _begin(one[head:][::-1], other[head:][::-1])


def _begin(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def _alike(one: str, other: str) -> float:
    """Return the similarity of two texts: 1 is equal."""
    if not one and not other:
        return 1.0
    head, tail = _ends(one, other)
    mine, its = (text[head : len(text) - tail][:MAX_COMPARED_CHARS] for text in (one, other))
    blocks = SequenceMatcher(None, mine, its).get_matching_blocks()
    same: int = head + tail + sum(block.size for block in blocks)
    return 2 * same / (len(one) + len(other))
