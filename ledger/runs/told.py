"""What the operator's product is told of runs, in the transaction that writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from drawdown.ledger.runs.own_keys import shown
from drawdown.schema.messages import RESERVATION_EXPIRED, Message, amount, tell


def tell_expired(connection: sa.Connection, expired: Sequence[sa.Row[Any]], now_ms: int) -> None:
    """Tell of reservations that were just expired. One that is settled late has expired all the same."""
    tell(connection, [_of_reservation(row, now_ms) for row in expired])


def _of_reservation(row: sa.Row[Any], now_ms: int) -> Message:
    data = {
        "reservation": shown(row.reservation),
        "project": row.project,
        "subject": row.subject,
        "action": row.action,
        **amount("reserved", row.amount_micro),
        **amount("drawn", row.drawn_micro),
        **amount("freed", row.left_micro),
        "expires_ms": row.expires_ms,
    }
    fact = f"{RESERVATION_EXPIRED}:{row.reservation}"
    return Message(RESERVATION_EXPIRED, fact, now_ms, data, row.org_id, row.customer_id)
