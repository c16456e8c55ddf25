"""The keys of uses: who meets whose.

Guarantee: an API key that is bound to an organisation has use keys of its organisation's own: what others use is no
matter to it, and what it uses takes no key of theirs. A key that is bound to none takes use keys among all
organisations, and no bound key takes one of these. A bound key finds what a key that is bound to none used under the
same key for its organisation: it is one use, whatever comes at once, of one metric, whose counter is locked. Of two
metrics at the same moment both may go in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from drawdown.ledger.runs import own_keys
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.units import MAX_ID_CHARS
from drawdown.worker.executions.request import USE
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard.counters import Use


def own_name(org_id: str, key: str) -> str:
    """What an organisation's own key of a use is kept as."""
    return own_keys.own_name(org_id, key, USE)


def require_key(key: str) -> None:
    """Errors: UsageError."""
    if not is_clean_id(key) or not is_clean_id(USE + key):
        most = MAX_ID_CHARS - len(USE)
        raise UsageError(f"a use's key has 1 to {most} characters, none of them control characters")


def read(connection: sa.Connection, keys: Sequence[tuple[str, str]]) -> dict[str, Use]:
    """All that may have been used under these keys, each beside whose use it is, by their names."""
    names = {name for org_id, key in keys for name in (key, own_name(org_id, key))}
    return guard_counts.read_uses(connection, sorted(names))


def before(uses: Mapping[str, Use], org_id: str, key: str, *, own: bool) -> Use | None:
    """What was used under a key before, to whom an API key that is bound to the organisation (`own`), or to none, gives
    it; None where there is nothing."""
    all_ = uses.get(key)
    if not own:
        return all_
    return uses.get(own_name(org_id, key)) or (all_ if all_ is not None and all_.org_id == org_id else None)


def use_of(connection: sa.Connection, org_id: str, key: str) -> Use | None:
    """The use that a key of an organisation's own names; None where that is nothing of the organisation's.
    Errors: UsageError."""
    require_key(key)
    return before(read(connection, [(org_id, key)]), org_id, key, own=True)
