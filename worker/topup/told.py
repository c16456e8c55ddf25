"""What the operator's product is told of top-ups, in the transaction that ends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from drawdown.schema.messages import TOPUP_CREDITED, TOPUP_FAILED, Message, amount, tell
from drawdown.schema.sql import queries

SQL = queries(__file__)


def tell_ends(connection: sa.Connection, topups: Sequence[str], now_ms: int) -> None:
    """Tell of top-ups that just ended: credited, or with nothing taken for all that is known. One that proves to be
    paid after it was given up is told of as credited, too."""
    if topups:
        values = {"topups": [{"topup": topup} for topup in topups], "now_ms": now_ms}
        tell(connection, [_of_topup(row, now_ms) for row in SQL.run(connection, "ended", values).all()])


def _of_topup(row: sa.Row[Any], now_ms: int) -> Message:
    """`blocked`: whether this wallet's top-ups have stopped until there is another card."""
    data: dict[str, object] = {
        "topup": row.topup,
        **amount("credits", row.credits_micro),
        "money_minor": row.money_minor,
        "currency": row.currency,
        "service": row.service,
    }
    event = TOPUP_CREDITED if row.state == "credited" else TOPUP_FAILED
    if event == TOPUP_CREDITED:
        data["payment_id"] = row.payment_id
    else:
        data |= {"state": row.state, "reason": row.evidence, "blocked": row.blocked_ms is not None}
    return Message(event, f"{event}:{row.topup}", now_ms, data, row.org_id, row.customer_id)
