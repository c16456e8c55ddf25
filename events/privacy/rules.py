"""All rules: own patterns of texts, and what else a finding may be called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from drawdown.events.privacy.rule import Rule
from drawdown.events.privacy.rules_ids import IDS
from drawdown.events.privacy.rules_places import PLACES
from drawdown.events.privacy.rules_secrets import SECRETS

RULES: Final[tuple[Rule, ...]] = (*SECRETS, *IDS, *PLACES)


def found_in(text: str, key: str) -> Iterator[str]:
    """The names of the rules that find something in a text; `key` is the bare name of its field."""
    lowered = text.lower()
    return (one.name for one in RULES if one.finds(text, lowered, key))
