"""Values that are known to be private: this database's own ids, and the configured secrets.

A report's words are compared with them as wholes, whatever their case: part of a longer word is none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from drawdown.events.privacy.leaves import Leaf
from drawdown.schema.units import MAX_ID_CHARS

LEAST_CHARS: Final = 3
LEAST_DIGITS: Final = 6
"""Of a number: a shorter one is a count that happens to be the same."""
LEAST_SECRET_CHARS: Final = 6
_BETWEEN_WORDS: Final = re.compile(r"[\s\"'`,;<>()\[\]{}|]+")
_BETWEEN_PARTS: Final = re.compile(r"[:/=&?#@.]+")


def words(leaf: Leaf) -> Iterator[str]:
    """What of a leaf may be an id: all of it, its words, and the parts of those. The same word may come twice."""
    for reading in leaf.readings:
        yield from filter(_may_be_id, (reading, reading.strip()))
        for word in _BETWEEN_WORDS.split(reading):
            yield from filter(_may_be_id, (word, word.rstrip(".:!?"), *_BETWEEN_PARTS.split(word)))


def candidates(leaves: Iterable[Leaf]) -> frozenset[str]:
    """What is to be looked up among ids: words as they stand, and in lower case."""
    return frozenset(form for leaf in leaves for word in words(leaf) for form in (word, word.lower()))


def holds_secret(leaf: Leaf, secrets: Iterable[str]) -> bool:
    """Whether a configured secret stands anywhere in a leaf."""
    texts = [reading.casefold() for reading in leaf.readings]
    return any(secret.casefold() in text for secret in secrets if len(secret) >= LEAST_SECRET_CHARS for text in texts)


def holds_id(leaf: Leaf, ids: frozenset[str]) -> bool:
    """Whether a word of a leaf is one of the ids, which are in lower case."""
    return any(word.casefold() in ids for word in words(leaf))


def _may_be_id(text: str) -> bool:
    return LEAST_CHARS <= len(text) <= MAX_ID_CHARS and not (text.isdigit() and len(text) < LEAST_DIGITS)
