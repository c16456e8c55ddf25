"""How an organisation's credit stands: the effective balance with its parts, and the last changes of its verdict.

Guarantee: reads only, and estimates as the watch does.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.verdict.effective_balance import read_used, since_read
from drawdown.worker.verdict.rates import policies_of, policy_for

BILLED = """
SELECT provider FROM assignments WHERE org_id = :org AND customer_id <> '' AND start_ms <= :now
    AND (end_ms IS NULL OR :now < end_ms)
"""
HISTORY = """
SELECT at_ms, read_ms, is_halted, reason, max_concurrent_sandboxes, balance_micro, unaccepted_micro, unsealed_micro
FROM projections WHERE org_id = :org ORDER BY projection_id DESC LIMIT 10
"""


def credit_status(connection: sa.Connection, org: Any, now_ms: int) -> dict[str, Any] | None:
    """The effective balance by the last read, in micro-credits; None where nobody bills the organisation."""
    values = {"org": org.org_id, "now": now_ms}
    provider = connection.execute(sa.text(BILLED), values).scalar_one_or_none()
    if provider is None or provider in EXEMPT_PROVIDERS:
        return None
    used = read_used(connection, provider, [org], now_ms=now_ms, read_ms=now_ms, lag_ms=0)[org.org_id]
    found = since_read(org, used)
    return {
        "provider": provider,
        "balance_micro": org.balance_micro,
        "read_ms": org.balance_read_ms,
        "unaccepted_micro": None if found is None else found.unaccepted,
        "unsealed_micro": used.unsealed,
        "not_sampled_micro": 0 if org.is_halted else used.unsampled,
        "effective_micro": None if found is None else found.value,
        "burn_a_minute_micro": used.burn_a_minute,
        "no_estimate_for": sorted(used.unpriced),
        "unread_since_ms": org.unread_since_ms,
        "when_down": policy_for(policies_of(connection, provider), org.plan),
    }


def verdict_history(connection: sa.Connection, org_id: str) -> list[dict[str, Any]]:
    """The last transitions, newest first."""
    return [dict(row._mapping) for row in connection.execute(sa.text(HISTORY), {"org": org_id})]
