"""The source and id of a refused item, as far as they may be shown.

Guarantee: pure. A name that looks like a secret, an address or a person's number is left out. Other names are cut
short.
"""

from __future__ import annotations

from typing import Final

from drawdown.events.envelope import Named
from drawdown.events.privacy.rules import PLACES, SECRETS

MAX_TOLD_CHARS: Final = 64
"""Stored part of the name of an invalid item."""
_PRIVATE: Final = (*SECRETS, *PLACES)
"""Ids of any other kind are what an example is for."""


def example_of(named: Named) -> Named:
    """Return the parts of a name that may be kept and shown."""
    source, item_id = named
    return _told(source), _told(item_id)


def _told(text: str | None) -> str | None:
    if text is None or any(rule.finds(text, text.lower(), "") for rule in _PRIVATE):
        return None
    return text if len(text) <= MAX_TOLD_CHARS else f"{text[: MAX_TOLD_CHARS - 1]}…"
