"""Text that others wrote, fit to be stored and shown.

Guarantee: the result has no control character (ESC, NUL, a line's end), no mark that turns the direction of reading,
and no half of a surrogate pair, which PostgreSQL would not store: each is replaced by its escape. The nearest text to a
mistyped one is found within bounds, whatever texts there are: the COMPARED_AT_MOST with the most common begin and end
are compared, and of each the middle part, cut to MAX_COMPARED_CHARS.
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
"""Length of an error's first line in reports and logs."""
NEEDS_YOU: Final = "needs you: "
"""Start of a reason that only a person can fix, by a setting: no later try fixes it."""
ALIKE: Final = 0.6
"""Least likeness of two ids that may be meant for each other, as difflib counts: 1 is the same."""
COMPARED_AT_MOST: Final = 20
"""Known ids that Drawdown compares, letter by letter, with an unknown one."""
MAX_COMPARED_CHARS: Final = 64
"""Compared characters of two ids, without their common beginning and end."""


_FORMULA: Final = re.compile('((?:^|;)[ "]*)(?=[=+@\\-\uff1d\uff0b\uff0d\uff20])')
"""Matches the start of a formula: some spreadsheets take wide signs, too."""


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


def counted(count: int, one: str, many: str) -> str:
    """Return a number and its noun."""
    return f"{count:,} {one if count == 1 else many}"


def no_formula(text: str) -> str:
    """Return a clean text for a cell of a spreadsheet that no spreadsheet takes for a formula.

    An apostrophe is put before a sign that could begin one. It is also put after a semicolon: if numbers have commas,
    it separates the cells.
    """
    if text[:1].isalnum() and ";" not in text:  # most are so, and a file has many
        return clean(text)
    shown = _FORMULA.sub(r"\1'", clean(text))
    return f"'{shown}" if shown[:1] == "'" and text[:1] == "'" else shown


def in_short(error: BaseException) -> str:
    """An error's kind and first line: what follows may hold a statement, or others' values."""
    first = str(error).partition("\n")[0]
    return clean(f"{type(error).__name__}: {first}", MAX_ERROR_CHARS)


def why_unread(error: Exception) -> str:
    """Return why a file of text cannot be read, for the person who named it."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return str(getattr(error, "strerror", None) or error)


def typed(*words: str) -> str:
    """Return the words of a command as a person types them in a shell: arguments, then options.

    If an argument could be taken for an option, `--` comes before it, and options before that.
    """
    first = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    dashed = next((at for at, word in enumerate(words[:first]) if word.startswith("-")), None)
    if dashed is None:
        return shlex.join(words)
    return shlex.join((*words[:dashed], *words[first:], "--", *words[dashed:first]))


def nearest(given: str, candidates: Iterable[str]) -> str | None:
    """Which one was probably meant; upper and lower case are alike."""
    wanted = given[: MAX_ID_CHARS + 1].casefold()
    by_text: dict[str, str] = {}
    for name in candidates:  # of two that differ in case alone, the one that is more like it as it is written
        text = name[: MAX_ID_CHARS + 1].casefold()
        before = by_text.setdefault(text, name)
        if _roughly(given, name) > _roughly(given, before):
            by_text[text] = name
    likely = heapq.nlargest(COMPARED_AT_MOST, by_text, key=lambda text: _roughly(wanted, text))
    alike, text = max(((_alike(wanted, one), one) for one in likely), default=(0.0, ""))
    return by_text[text] if alike >= ALIKE else None


def _roughly(one: str, other: str) -> int:
    """Return an upper bound of the likeness of two texts, by their ends and letters: it is cheap."""
    return 2 * sum(_ends(one, other)) + 2 * len(set(one) & set(other)) - abs(len(one) - len(other))


def _ends(one: str, other: str) -> tuple[int, int]:
    """Return the number of characters that two texts share at their begin, and of the rest at their end."""
    head = _begin(one, other)
    return head, _begin(one[head:][::-1], other[head:][::-1])


def _begin(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def _alike(one: str, other: str) -> float:
    """Return the likeness of two texts: 1 is the same."""
    if not one and not other:
        return 1.0
    head, tail = _ends(one, other)
    mine, its = (text[head : len(text) - tail][:MAX_COMPARED_CHARS] for text in (one, other))
    blocks = SequenceMatcher(None, mine, its).get_matching_blocks()
    same: int = head + tail + sum(block.size for block in blocks)
    return 2 * same / (len(one) + len(other))
