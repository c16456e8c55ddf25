"""Pushes that may have been sent in a history we lost (rule R1).

Guarantee: nothing of a window from before a loss is sent before its provider was asked for it; what the provider has
under keys of that window that we know nothing of is found by asking for the revisions that would have come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities, PushRequest
from drawdown.schema.units import push_key
from drawdown.worker.requests import dated, request_of, wire_key

NEXT_REVISIONS: Final = 3
"""So many revisions after the newest we know are asked for. What is adopted makes its window's difference be sealed,
and that revision is asked for again with the ones after it, so a longer row of them is found step by step."""


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


def next_revisions(row: Any, capabilities: Capabilities) -> list[PushRequest]:
    """What to ask for besides a push: the keys that our lost history would have used next."""
    asked = request_of(row, capabilities)
    numbers = range(row.newest + 1, row.newest + 1 + NEXT_REVISIONS)
    return [
        replace(
            asked,
            key=wire_key(push_key(row.org_id, row.window_ms, row.feature, number), capabilities),
            ts=dated(row.window_ms, number),
        )
        for number in numbers
    ]
