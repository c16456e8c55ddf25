"""Rules of others: a file in the form of gitleaks' `gitleaks.toml`, on RE2, which costs in proportion to the text.

No such file comes with this program: gitleaks' own is published under the MIT licence, and changes each month. Rules of
paths alone are passed over, and so are allow-lists: they are for code.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from drawdown.schema.errors import UsageError

MAX_RULES_FILE_BYTES: Final = 4_194_304
MAX_RULES: Final = 2_000
RE2_MEMORY_BYTES: Final = 67_108_864
"""That RE2 may take for one pattern."""
MOST_ENTROPY: Final = 20
"""Bits a character that a rule may ask for: hardly any text has more, and a rule that finds nothing looks like one."""


class Pattern(Protocol):
    """What RE2 makes of a pattern."""

    def finditer(self, text: str) -> Any: ...


@dataclass(frozen=True)
class ForeignRule:
    """One rule of such a file. `group`: which part of a match is the secret; `entropy`: how mixed it is at least."""

    name: str
    pattern: Pattern
    needles: tuple[str, ...]
    group: int
    entropy: float

    def finds(self, text: str, lowered: str) -> bool:
        """Whether there is one in a text, whose lower case is `lowered`."""
        if self.needles and not any(needle in lowered for needle in self.needles):
            return False
        return any(entropy_of(self._secret(found)) > self.entropy for found in self.pattern.finditer(text))

    def _secret(self, found: Any) -> str:
        if self.group:
            return str(found.group(self.group) or "")
        return str(next((part for part in found.groups() if part), found.group(0)))


def rules_of(content: bytes) -> tuple[ForeignRule, ...]:
    """The rules of a file. Errors: UsageError for what is no such file, and where RE2 is not installed."""
    try:
        found = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        raise UsageError("it is no TOML", code="bad_rules") from None
    rules = found.get("rules")
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise UsageError("it has no [[rules]], as gitleaks' files have", code="bad_rules")
    if len(rules) > MAX_RULES:
        raise UsageError(f"it has more than {MAX_RULES:,} rules", code="bad_rules")
    made = tuple(_rule(number, rule) for number, rule in enumerate(rules, 1) if "regex" in rule)
    if not made:
        raise UsageError("none of its rules has a regex", code="bad_rules")
    return made


def _rule(number: int, given: Mapping[str, Any]) -> ForeignRule:
    try:
        import re2
    except ImportError:
        raise UsageError("rules of others need RE2: pip install 'drawdown[privacy]'", code="no_re2") from None
    options = re2.Options()
    options.log_errors, options.max_mem = False, RE2_MEMORY_BYTES
    bad = UsageError(
        f"its rule {number} cannot be used: see its id, regex, keywords, secretGroup and entropy", code="bad_rules"
    )
    name, regex, words = given.get("id"), given["regex"], given.get("keywords", [])
    group, entropy = given.get("secretGroup", 0), given.get("entropy", 0)
    if not isinstance(words, list) or not all(isinstance(text, str) for text in (name, regex, *words)):
        raise bad
    if type(group) is not int or type(entropy) not in (int, float) or not 0 <= entropy <= MOST_ENTROPY:
        raise bad
    try:
        pattern = re2.compile(regex, options)
    except (re2.error, ValueError):
        raise bad from None
    if not 0 <= group <= pattern.groups:
        raise bad
    return ForeignRule(str(name), pattern, tuple(word.lower() for word in words), group, float(entropy))


def entropy_of(text: str) -> float:
    """Bits a character, by Shannon: as gitleaks counts; above 0 for a text of one character, which has none."""
    if not text:
        return 0.0
    shares = [count / len(text) for count in Counter(text).values()]
    return max(-sum(share * math.log2(share) for share in shares), 1e-9)
