"""What of its history this database lost, and until when (rule R1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa


@dataclass(frozen=True)
class Loss:
    """What happened in [from_ms, until_ms) may not be on record here."""

    from_ms: int
    until_ms: int


def read_losses(connection: sa.Connection) -> list[Loss]:
    """All there ever were."""
    return [Loss(*row) for row in connection.execute(sa.text("SELECT from_ms, until_ms FROM losses"))]


def loss_of(window_ms: int, losses: Sequence[Loss]) -> Loss | None:
    """When the pushes of a window may have been sent, unknown to us."""
    its = [one for one in losses if window_ms < one.until_ms]
    return Loss(min(one.from_ms for one in its), max(one.until_ms for one in its)) if its else None
