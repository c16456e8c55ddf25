"""The readings of a text: as it stands, and as whoever decodes it would read it.

Guarantee: bounded. Of one text there are MAX_READINGS at most, each of MAX_TEXT_CHARS at most.
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
MAX_RUNS: Final = 20
"""Runs of one text that are taken for base64."""

_UNSEEN: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\xad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_ESCAPE: Final = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|([\"'/\\]))")
_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{16,4096}={0,2}")
_PLAIN: Final = re.compile(r"[ !#$'()*,.:;<>?@\[\]^`{|}~\w-]{0,15}", re.ASCII)
"""A short text that nothing hides in."""


def readings(text: str) -> list[str]:
    """The text first, then what its decodings give, and theirs; none twice."""
    if _PLAIN.fullmatch(text):
        return [text]
    found = [text[:MAX_TEXT_CHARS]]
    for reading in found:
        for decoded in _decodings(reading):
            if len(found) == MAX_READINGS:
                return found
            if decoded[:MAX_TEXT_CHARS] not in found:
                found.append(decoded[:MAX_TEXT_CHARS])
    return found


def _decodings(text: str) -> Iterator[str]:
    if "%" in text:
        yield unquote(text)
    if "\\" in text:
        yield _ESCAPE.sub(_character, text)
    if "&" in text:
        yield html.unescape(text)
    if not text.isascii() or _UNSEEN.search(text):
        yield _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    for number, run in enumerate(_RUN.finditer(text)):
        if number == MAX_RUNS:
            return
        decoded = _of_base64(run[0])
        if decoded is not None:
            yield decoded


def _character(found: re.Match[str]) -> str:
    if found[4]:
        return found[4]
    number = int(found[1] or found[2] or found[3], 16)
    return chr(number) if number <= 0x10FFFF else ""


def _of_base64(run: str) -> str | None:
    """What a run of base64 says, where that is text."""
    bare = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        text = base64.b64decode(bare + "=" * (-len(bare) % 4)).decode()
    except ValueError:
        return None
    return text if text.replace("\n", "").replace("\t", "").isprintable() else None
