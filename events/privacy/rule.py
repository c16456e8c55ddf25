"""A rule: a pattern of something private, and what it is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FLAGS: Final = re.IGNORECASE | re.ASCII


@dataclass(frozen=True)
class Rule:
    """`needles`: texts of which one, in lower case, is in whatever the pattern matches (empty: any text is looked at).
    `holds` judges what the pattern matched. `unless_key`: names of fields whose values may look like that."""

    name: str
    says: str
    pattern: re.Pattern[str]
    needles: tuple[str, ...] = ()
    holds: Callable[[str], bool] | None = None
    unless_key: frozenset[str] = frozenset()

    def finds(self, text: str, lowered: str, key: str) -> bool:
        """Whether there is one in a text. `lowered` is the text in lower case, `key` the bare name of its field."""
        if self.needles and not any(needle in lowered for needle in self.needles):
            return False
        if key in self.unless_key:
            return False
        if self.holds is None:
            return self.pattern.search(text) is not None
        return any(self.holds(found[0]) for found in self.pattern.finditer(text))


def rule(
    name: str,
    says: str,
    *patterns: str,
    needles: str = "",
    holds: Callable[[str], bool] | None = None,
    unless_key: str = "",
) -> Rule:
    """A rule of one or several patterns; needles and names of fields stand apart by spaces."""
    made = re.compile("|".join(f"(?:{pattern})" for pattern in patterns), FLAGS)
    return Rule(name, says, made, tuple(needles.split()), holds, frozenset(unless_key.split()))
