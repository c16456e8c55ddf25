"""The gate's read of an organisation, and its leave to have the provider asked.

Guarantee: of all processes and requests that want to ask about one organisation at once, one may, and then none for ten
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import SECOND_MS
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)

ASK_EVERY_MS: Final = 10 * SECOND_MS
BUSY_MS: Final = 60 * SECOND_MS
"""Longer than any call may last: an ask whose process died keeps others waiting no longer."""


@dataclass(frozen=True)
class Gated:
    """An organisation as the gate sees it. `unknown`: neither a provider nor an operator has said anything of it."""

    billing_provider: str | None
    is_halted: bool
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    projection_read_ms: int | None
    unknown: bool


@dataclass(frozen=True)
class LeaveToAsk:
    """Leave to ask, and whom: its biller by now, which `orgs` may name only from the next tick on."""

    at_ms: int
    provider: str


def read_gated(connection: sa.Connection, org_id: str) -> Gated | None:
    """One read of its row; None where there is none."""
    row = SQL.run(connection, "gated", {"org_id": org_id}).mappings().one_or_none()
    return None if row is None else Gated(**row)


def may_ask(connection: sa.Connection, org_id: str, now_ms: int) -> LeaveToAsk | None:
    """Have the organisation asked about again, where nobody did just now."""
    now = {"org_id": org_id, "now_ms": now_ms}
    values = {**now, "earlier_ms": now_ms - ASK_EVERY_MS, "busy_until_ms": now_ms + BUSY_MS}
    provider = SQL.run(connection, "biller", now).scalar()
    if provider is None or SQL.run(connection, "may_ask", values).first() is None:
        return None
    mark_for_projection(connection, [org_id], now_ms)
    return LeaveToAsk(now_ms, str(provider))


def asked(connection: sa.Connection, org_id: str, at_ms: int) -> None:
    """The ask that began then has ended."""
    SQL.run(connection, "asked", {"org_id": org_id, "asked_ms": at_ms})
