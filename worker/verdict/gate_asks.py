"""What the gate reads of an organisation, and its leave to have the provider asked.

Guarantee: of all who want to ask about one organisation at once, in whichever process, one may, and then nobody for ten
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import SECOND_MS
from drawdown.worker.verdict.asks import mark_for_projection

ASK_EVERY_MS: Final = 10 * SECOND_MS
BUSY_MS: Final = 60 * SECOND_MS
"""Longer than any call may last: an ask whose process died keeps others waiting no longer."""

GATED: Final = """
SELECT billing_provider, is_halted, halt_reason, max_concurrent_sandboxes, projection_read_ms,
    projection_read_ms IS NULL AND override_halted IS NULL AS unknown
FROM orgs
WHERE org_id = :org
"""
_BILLER: Final = """
SELECT provider FROM assignments WHERE org_id = :org AND start_ms <= :now AND (end_ms IS NULL OR :now < end_ms)
"""
# Both conditions in one statement: of all who ask at once, in whichever process, one gets the row back. An ask from the
# future counts, unless it lies so far there that a clock was put right since: two hosts' clocks are never quite alike.
_MAY_ASK: Final = """
INSERT INTO gate_asks (org_id, asked_ms, busy_until_ms) VALUES (:org, :now, :busy)
ON CONFLICT (org_id) DO UPDATE SET asked_ms = :now, busy_until_ms = :busy
WHERE (gate_asks.asked_ms <= :earlier AND COALESCE(gate_asks.busy_until_ms, 0) <= :now) OR gate_asks.asked_ms > :busy
RETURNING org_id
"""
_ASKED: Final = "UPDATE gate_asks SET busy_until_ms = NULL WHERE org_id = :org AND asked_ms = :now"


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
    row = connection.execute(sa.text(GATED), {"org": org_id}).mappings().one_or_none()
    return None if row is None else Gated(**row)


def may_ask(connection: sa.Connection, org_id: str, now_ms: int) -> LeaveToAsk | None:
    """Have the organisation asked about again, where nobody did just now."""
    values = {"org": org_id, "now": now_ms, "earlier": now_ms - ASK_EVERY_MS, "busy": now_ms + BUSY_MS}
    provider = connection.execute(sa.text(_BILLER), values).scalar()
    if provider is None or connection.execute(sa.text(_MAY_ASK), values).first() is None:
        return None
    mark_for_projection(connection, [org_id], now_ms)
    return LeaveToAsk(now_ms, str(provider))


def asked(connection: sa.Connection, org_id: str, at_ms: int) -> None:
    """The ask that began then has ended."""
    connection.execute(sa.text(_ASKED), {"org": org_id, "now": at_ms})
