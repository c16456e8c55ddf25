"""Losses: the spans of history that this database lost (rule R1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class Loss:
    """What happened in [from_ms, until_ms) may not be on record here."""

    from_ms: int
    until_ms: int


def read_losses(connection: sa.Connection) -> list[Loss]:
    """All there ever were."""
    return [Loss(row.from_ms, row.until_ms) for row in SQL.run(connection, "losses")]


def loss_of(window_ms: int, losses: Sequence[Loss]) -> Loss | None:
    """When the pushes of a window may have been sent, unknown to us."""
    its = [loss for loss in losses if window_ms < loss.until_ms]
    return Loss(min(loss.from_ms for loss in its), max(loss.until_ms for loss in its)) if its else None
