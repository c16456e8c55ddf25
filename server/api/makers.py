"""Who may go on with a run or a use of the guard, and who meets the keys of others.

Guarantee: an API key that is bound to an organisation draws on, extends, settles and releases what it began itself, and
no more: tenants hold such keys. It is told no name of another key. A key that is bound to none ends what any key began.
It takes no run for its own that a bound key began under the same key: whoever began a run may end it at no cost.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.server.http.errors import ApiError
from drawdown.worker.commands import api_keys
from drawdown.worker.commands.api_keys import ApiKey

CODE: Final = "foreign_key"


def require_maker(key: ApiKey, maker: str, what: str) -> None:
    """Insist that a bound key began this. `maker`: the actor who did. Errors: ApiError 403."""
    if key.org_id is not None and key.actor != maker:
        why = f"another key began {what}. Use that key, or one that is bound to no organisation"
        raise ApiError(403, CODE, f"{key.name} cannot change it: {why}")


def require_repeatable(connection: sa.Connection, actor: str, *, bound: bool, maker: str, what: str) -> None:
    """Insist that what was begun before may be taken for what is asked for now. Errors: ApiError 409."""
    if actor != maker and (bound or api_keys.is_bound(connection, maker)):
        by = "another key" if bound else maker
        raise ApiError(409, CODE, f"nothing was held: {by} used the key {what} for a run before. Choose another key")
