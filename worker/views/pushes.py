"""Lists of pushes, and their sums by customer. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

_WHERE = "state IN :states AND (:org = '' OR org_id = :org) AND (:provider = '' OR provider = :provider)"
_LIST = f"""
SELECT key, provider, customer_id, sent_qty, state, attempts, due_at_ms, last_error FROM pushes
WHERE {_WHERE} ORDER BY window_ms, org_id, feature, revision LIMIT :most
"""
_SUMS = f"""
SELECT provider, customer_id, feature, state, COUNT(*) AS pushes, CAST(SUM(sent_qty) AS BIGINT) AS quantity FROM pushes
WHERE {_WHERE} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""


@dataclass(frozen=True)
class PushFilter:
    """Which pushes: in these states, of an organisation, at a provider. Empty: any."""

    states: Sequence[str]
    org: str = ""
    provider: str = ""


@dataclass(frozen=True)
class PushRow:
    """One push; its quantity in its provider's terms, as it is sent."""

    key: str
    provider: str
    customer_id: str
    sent_qty: int
    state: str
    attempts: int
    due_at_ms: int | None
    last_error: str | None


@dataclass(frozen=True)
class PushSum:
    """All pushes of one customer, feature and state."""

    provider: str
    customer_id: str
    feature: str
    state: str
    pushes: int
    quantity: int


def list_pushes(connection: sa.Connection, chosen: PushFilter, most: int) -> list[PushRow]:
    """In the order of their windows."""
    return [PushRow(*row) for row in _rows(connection, _LIST, chosen, most=most)]


def sum_pushes(connection: sa.Connection, chosen: PushFilter) -> list[PushSum]:
    """By provider, customer, feature and state."""
    return [PushSum(*row) for row in _rows(connection, _SUMS, chosen)]


def _rows(connection: sa.Connection, text: str, chosen: PushFilter, **more: int) -> Sequence[Sequence[Any]]:
    query = sa.text(text).bindparams(sa.bindparam("states", list(chosen.states), expanding=True))
    return connection.execute(query, {"org": chosen.org, "provider": chosen.provider, **more}).all()
