"""The parts of a rejected item's source and id that can be shown.

Guarantee: this module is pure. A name that looks like a secret, an address or a person's number is omitted. Other names
are shortened.
"""

from __future__ import annotations

from typing import Final

from drawdown.events.envelope import Named
from drawdown.events.privacy.rules import PLACES, SECRETS

MAX_TOLD_CHARS: Final = 64
"""Characters of an invalid item's source or id that Drawdown stores and shows."""
_PRIVATE: Final = (*SECRETS, *PLACES)
"""The rules of private names. Other ids may be shown, because an example needs them."""


def example_of(named: Named) -> Named:
    """Return the source and the id of an item as they can be stored and shown.

    A private part is None. A long part is shortened to MAX_TOLD_CHARS.
    """
    source, item_id = named
    return _public_text(source), _public_text(item_id)


def _public_text(text: str | None) -> str | None:
    if text is None or any(rule.finds(text, text.lower(), "") for rule in _PRIVATE):
        return None
    return text if len(text) <= MAX_TOLD_CHARS else f"{text[: MAX_TOLD_CHARS - 1]}…"
