"""All rules: own patterns of texts, and what else a finding may be called."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from drawdown.events.privacy.rule import Rule
from drawdown.events.privacy.rules_ids import IDS
from drawdown.events.privacy.rules_places import PLACES
from drawdown.events.privacy.rules_secrets import SECRETS

RULES: Final[tuple[Rule, ...]] = (*SECRETS, *IDS, *PLACES)
OF_NUMBERS: Final = tuple(one for one in RULES if one.name == "card_number")
"""That know a number from a quantity, by its digits alone."""


OTHERS: Final[Mapping[str, str]] = {
    "personal_data": "by its field's name: a telephone, a person's name, an address",
    "private_content": "by its field's name: a prompt, a message, the body of a request",
    "secret_field": "by its field's name: a password, token, key or signature",
    "known_id": "an id of this database",
    "configured_secret": "a secret that is configured here",
    "too_large": "more values than are looked through",
    "too_deep": "more than 32 levels",
    "duplicate_key": "a key that stands twice in one object",
    "long_text": "a text of more than 10,000 characters",
    "many_readings": "a text that can be read in more than twelve ways",
    "unknown_field": "a field that the shape does not name",
    "missing_field": "a field of the shape is missing",
    "not_of_its_class": "a value of another class than the shape says",
}
"""What else a finding may be called: by the name of a field, by comparison, by the form, by the shape."""


def meanings() -> dict[str, str]:
    """What each name of a finding means, but for the rules of others."""
    return {**{one.name: one.says for one in RULES}, **OTHERS}


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
