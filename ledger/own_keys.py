"""Keys that belong to one organisation.

Two organisations can use the same key without a conflict.

Guarantee: the stored name of such a key begins with OWN, differs from that of any other organisation, and is not longer
than an id. A key that is not bound to an organisation cannot begin with OWN.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value
from drawdown.schema.units import MAX_ID_CHARS

OWN: Final = "own:"
"""Prefix of the names of uses and executions with a key of one organisation."""
_OWN: Final = re.compile(rf"{OWN}[0-9a-f]{{20}}:")


def own_name(org_id: str, key: str, before: str = "") -> str:
    """Return the stored name of an organisation's own key.

    With the prefix `before`, the name is still a valid id.
    """
    whole = f"{OWN}{hashlib.sha256(org_id.encode()).hexdigest()[:20]}:{key}"
    return (
        whole
        if len(before + whole) <= MAX_ID_CHARS
        else f"{whole[:100]}…{hashlib.sha256(whole.encode()).hexdigest()[:32]}"
    )


def strip_own_prefix(name: str) -> str:
    """Return a stored name without its organisation's prefix.

    The result is the key as its user sent it, unless `own_name` shortened it.
    """
    return _OWN.sub("", name, count=1)


def strip_own_prefixes(text: str, org_id: str) -> str:
    """Return a text without the prefix of this organisation's keys."""
    return text.replace(own_name(org_id, ""), "")


def require_open(key: str) -> None:
    """Reject a key with the prefix OWN from an unbound caller. Errors: UsageError."""
    if key.startswith(OWN):
        raise UsageError(
            f"invalid key {quote_value(key)}: the prefix {OWN} is reserved for keys of organisations. Choose another "
            "key"
        )
