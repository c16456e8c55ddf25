"""Lists of pushes, and their sums by customer. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class PushFilter:
    """Which pushes: in these states, of an organisation, at a provider, of a feature, of windows in [from_ms, to_ms).
    Empty: any."""

    states: Sequence[str]
    org: str = ""
    provider: str = ""
    feature: str = ""
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True)
class ListedPush:
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


def list_pushes(connection: sa.Connection, chosen: PushFilter, most: int) -> list[ListedPush]:
    """In the order of their windows."""
    return [ListedPush(**row._mapping) for row in SQL.run(connection, "list", {**_values(chosen), "at_most": most})]


def sum_pushes(connection: sa.Connection, chosen: PushFilter) -> list[PushSum]:
    """By provider, customer, feature and state."""
    return [PushSum(**row._mapping) for row in SQL.run(connection, "sums", _values(chosen))]


def _values(chosen: PushFilter) -> dict[str, object]:
    return {
        "states": list(chosen.states),
        "org_id": chosen.org,
        "provider": chosen.provider,
        "feature": chosen.feature,
        "from_ms": chosen.from_ms or 0,
        "to_ms": 2**62 if chosen.to_ms is None else chosen.to_ms,
    }
