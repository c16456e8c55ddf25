"""Sums of pushes that are open. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.worker.push.lists import NO_ERROR, SQL, PushFilter

MOST_REASONS: Final = 20
"""Reasons that are told apart in one sum."""


@dataclass(frozen=True)
class OpenSum:
    """All open pushes of one provider, state and feature; since when the oldest of them is sealed."""

    provider: str
    state: str
    feature: str
    pushes: int
    quantity: int
    oldest_ms: int


@dataclass(frozen=True)
class PushSum:
    """All open pushes of one customer, feature and state; their quantity in their provider's terms, as it is sent."""

    provider: str
    customer_id: str
    feature: str
    state: str
    pushes: int
    quantity: int


@dataclass(frozen=True)
class WaitSum:
    """All open pushes of one provider and state with the same last error, or NO_ERROR: how many, their oldest
    window, and when one of them is tried next (None: no tick tries them)."""

    provider: str
    state: str
    error: str
    pushes: int
    oldest_ms: int
    next_ms: int | None


@dataclass(frozen=True)
class WaitSums:
    """MOST_REASONS of them at most; `more`: whether there are others."""

    sums: list[WaitSum]
    more: bool


def sum_pushes(connection: sa.Connection, chosen: PushFilter) -> list[PushSum]:
    """Those of a filter that are open, on whichever page: by provider, customer, feature and state."""
    return [PushSum(**row._mapping) for row in SQL.run(connection, "customer_sums", chosen.values)]


def open_sums(connection: sa.Connection) -> list[OpenSum]:
    """Of all that is not decided, by provider, state and feature."""
    return [OpenSum(**row._mapping) for row in SQL.run(connection, "sums")]


def wait_sums(connection: sa.Connection) -> WaitSums:
    """Of all that is not decided, by provider, state and reason: those for people first, then by how many."""
    values = {"no_error": NO_ERROR, "at_most": MOST_REASONS + 1}
    found = [WaitSum(**row._mapping) for row in SQL.run(connection, "wait_sums", values)]
    return WaitSums(found[:MOST_REASONS], len(found) > MOST_REASONS)
