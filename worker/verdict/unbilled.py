"""What a wallet here is still to be charged for: usage that was taken, and is not sealed, or not accepted yet.

Guarantee: worked out as the watch works it out, of committed rows alone, whether a watch runs or not. What is given
back, and not yet settled, makes no room. A customer without such usage costs one look by the index. What was found is
kept until the transaction ends; of a customer with very many samples also for as long as a watch needs to come round,
unless a seal or a charge changed it: no decision adds up more samples than MOST_SAMPLES, but one each KEPT_MS.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from drawdown.schema.sql import prepared, queries
from drawdown.schema.units import SECOND_MS
from drawdown.worker.catalog.wallets import wallets_at
from drawdown.worker.verdict.used_now import read_used_now

SQL = queries(__file__)

MOST_SAMPLES: Final = 1_000
"""Samples of a customer from which on what they came to is kept a while."""
KEPT_MS: Final = 5 * SECOND_MS
MOST_KEPT: Final = 10_000
"""Customers with many samples that are kept. Beyond, the one that was kept first is forgotten."""
_KEPT: Final = "unbilled_micro"


class _Unread(NamedTuple):
    """An organisation as `read_used_now` asks for it: as if it had been read now, what was sent before is no matter."""

    org_id: str
    balance_read_ms: int
    balance_micro: int | None = None
    unseen_micro: int | None = None
    is_halted: bool = False


class _Found(NamedTuple):
    """What a customer's samples came to: when that was read, and what has to be the same for it to count."""

    at_ms: int
    mark: Sequence[object]
    micro: int


_FOUND: Final[WeakKeyDictionary[sa.Engine, OrderedDict[str, _Found]]] = WeakKeyDictionary()
"""Of customers with many samples, by database."""


def unbilled_micro(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    """In micro-credits, of all organisations that are billed as this customer now."""
    kept: dict[tuple[str, int], int] = _kept(connection)
    key = (customer_id, now_ms)
    if key not in kept:
        kept[key] = _read(connection, customer_id, now_ms)
    return kept[key]


def _kept(connection: sa.Connection) -> dict[tuple[str, int], int]:
    """What this transaction found."""
    now = connection.get_transaction()
    kept: tuple[object, dict[tuple[str, int], int]] = connection.info.get(_KEPT, (None, {}))
    if kept[0] is not now or now is None:
        kept = (now, {})
        connection.info[_KEPT] = kept
    return kept[1]


def _read(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    values = {"customer_id": customer_id, "now_ms": now_ms, "many": MOST_SAMPLES}
    with prepared(connection):
        rows = SQL.run(connection, "used_by", values).all()
    if sum(row.samples for row in rows) < MOST_SAMPLES:
        return _added_up(connection, rows, now_ms)
    known = _FOUND.setdefault(connection.engine, OrderedDict())
    mark, found = [(row.provider, row.org_id, row.sealed_to, row.has_open) for row in rows], known.get(customer_id)
    if found is not None and found.mark == mark and found.at_ms <= now_ms < found.at_ms + KEPT_MS:
        return found.micro
    if found is not None and found.mark == mark:
        known[customer_id] = found._replace(at_ms=now_ms)  # others go by it while this one adds up
    micro = _added_up(connection, rows, now_ms)
    known[customer_id] = _Found(now_ms, mark, micro)
    if len(known) > MOST_KEPT:
        known.popitem(last=False)
    return micro


def _added_up(connection: sa.Connection, rows: Sequence[Any], now_ms: int) -> int:
    with prepared(connection):
        orgs: dict[str, list[_Unread]] = defaultdict(list)
        for row in rows:
            orgs[row.provider].append(_Unread(row.org_id, now_ms))
        here = wallets_at(connection) if rows else ()
        used = read_used_now(connection, {name: some for name, some in orgs.items() if name in here}, now_ms)
    return max(sum(one.unsealed + one.unsent + one.in_flight for one in used.values()), 0)
