"""Who may go on with a run or a use of the guard.

Guarantee: an API key that is bound to an organisation draws on, extends, settles and releases what it began itself, and
no more: tenants hold such keys. It is told no name of another key. A key that is bound to none ends what any key began.
"""

from __future__ import annotations

from typing import Final

from drawdown.server.http.errors import ApiError
from drawdown.worker.access.keys import ApiKey

CODE: Final = "foreign_key"


def require_maker(key: ApiKey, maker: str, what: str) -> None:
    """Insist that a bound key began this. `maker`: the actor who did. Errors: ApiError 403."""
    if key.org_id is not None and key.actor != maker:
        why = f"another key began {what}. Use that key, or one that is bound to no organisation"
        raise ApiError(403, CODE, f"{key.name} cannot change it: {why}")
