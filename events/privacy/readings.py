"""The readings of a text: as it stands, and as whoever decodes it would read it.

Guarantee: bounded. Of one text there are MAX_READINGS at most, each of MAX_TEXT_CHARS at most. Where there would be
more, or longer ones, that is said: what was not read is not public.
"""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

MAX_TEXT_CHARS: Final = 10_000
"""Of a text that is looked through; a longer one is a finding of its own."""
MAX_READINGS: Final = 12
MAX_MARKS: Final = 30
"""Combining marks in a row, as Unicode's stream-safe form has it. To put more in order costs the square of them."""
MAX_RUNS: Final = 20
"""Runs of one text that are taken for base64 each for itself; what the others say is one reading."""

_UNSEEN: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_ESCAPE: Final = re.compile(
    r"\\+(?:u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-3][0-7]{2})|([\"'/\\]))"
)
_MARKS: Final = frozenset("\u0f73\u0f75\u0f81\uff9e\uff9f")
"""No combining marks themselves, and made of them."""
_DIGIT: Final = re.compile(r"[^\D0-9]")
"""Of another script."""
_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{16,4096}={0,2}")
_PLAIN: Final = re.compile(r"[ !#$'()*,.:;<>?@\[\]^`{|}~\w-]{0,15}", re.ASCII)
"""A short text that nothing hides in."""


def readings(text: str) -> list[str]:
    """The text first, then what its decodings give, and theirs; none twice."""
    return look(text)[0]


def look(text: str) -> tuple[list[str], bool]:
    """The readings, and whether these are all, and whole."""
    if _PLAIN.fullmatch(text):
        return [text], True
    found, is_all = [text[:MAX_TEXT_CHARS]], len(text) <= MAX_TEXT_CHARS
    for reading in found:
        is_all = is_all and has_few_marks(reading)
        for decoded in _decodings(reading):
            cut = decoded[:MAX_TEXT_CHARS]
            is_all = is_all and len(cut) == len(decoded)
            if cut in found:
                continue
            if len(found) == MAX_READINGS:
                return found, False
            found.append(cut)
    return found, is_all


def _decodings(text: str) -> Iterator[str]:
    if "%" in text:
        yield unquote(text)
    if "\\" in text:
        yield _ESCAPE.sub(_character, text)
    if "&" in text:
        yield html.unescape(text)
    if (not text.isascii() or _UNSEEN.search(text)) and has_few_marks(text):
        yield _DIGIT.sub(_digit, _UNSEEN.sub("", unicodedata.normalize("NFKC", text)))
    said = [decoded for run in _RUN.finditer(text) if (decoded := _of_base64(run[0])) is not None]
    yield from said[:MAX_RUNS]
    if len(said) > MAX_RUNS:
        yield "\n".join(said[MAX_RUNS:])


def has_few_marks(text: str) -> bool:
    """Whether it can be normalised at a cost that grows with the text and no faster."""
    if text.isascii():
        return True
    row = 0
    for one in text:
        row = row + 1 if unicodedata.combining(one) or one in _MARKS else 0
        if row > MAX_MARKS:
            return False
    return True


def _character(found: re.Match[str]) -> str:
    if found[6]:
        return found[6]
    number = int(found[5], 8) if found[5] else int(found[1] or found[2] or found[3] or found[4], 16)
    return chr(number) if number <= 0x10FFFF else ""


def _digit(found: re.Match[str]) -> str:
    return str(unicodedata.decimal(found[0]))


def _of_base64(run: str) -> str | None:
    """What a run of base64 says, where that is text."""
    bare = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        text = base64.b64decode(bare + "=" * (-len(bare) % 4)).decode()
    except ValueError:
        return None
    return text if text.replace("\n", "").replace("\t", "").isprintable() else None
