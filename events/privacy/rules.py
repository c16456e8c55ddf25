"""All rules: own patterns of texts, and what else a finding may be called."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from drawdown.events.privacy.rule import Rule
from drawdown.events.privacy.rules_ids import IDS
from drawdown.events.privacy.rules_places import PLACES
from drawdown.events.privacy.rules_secrets import SECRETS

RULES: Final[tuple[Rule, ...]] = (*SECRETS, *IDS, *PLACES)
OF_NUMBERS: Final = tuple(one for one in RULES if one.name == "card_number")
"""That know a number from a quantity, by its digits alone."""


MAX_KEPT_CHARS: Final = 100
MAX_KEPT: Final = 8_192
"""Short texts whose findings are kept: fields and labels repeat."""


def found_in(text: str, key: str) -> tuple[str, ...]:
    """The names of the rules that find something in a text; `key` is the bare name of its field."""
    return _kept(text, key) if len(text) <= MAX_KEPT_CHARS else _found_in(text, key)


def found_in_number(text: str) -> tuple[str, ...]:
    """The same for a number of JSON. One with decimals is a quantity, whatever its digits."""
    whole = text.removeprefix("-")
    return tuple(one.name for one in OF_NUMBERS if whole.isdigit() and one.finds(whole, whole, ""))


def _found_in(text: str, key: str) -> tuple[str, ...]:
    lowered = text.lower()
    return tuple(one.name for one in RULES if one.finds(text, lowered, key))


_kept = lru_cache(MAX_KEPT)(_found_in)
