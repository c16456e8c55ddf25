"""What an operator said for estimates: what usage costs at a provider, and what holds while it cannot be read.

Guarantee: rates are append-only and begin at a window; both are on record with actor and reason. Nothing is charged by
them.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.ledger.rates import Rate
from drawdown.ledger.wallet import read_rates
from drawdown.worker.catalog.wallets import wallets_at

POLICIES: Final = ("go_on", "estimate", "stop")
DEFAULT_POLICY: Final = "estimate"


def uses_ledger(connection: sa.Connection, provider: str) -> bool:
    """Whether a provider's balance is a wallet of the embedded ledger, so that the rate card holds."""
    return provider in wallets_at(connection)


def rates_of(connection: sa.Connection, provider: str) -> list[Rate]:
    """What usage costs at a provider, in millionths of the unit of its balance."""
    if uses_ledger(connection, provider):
        return list(read_rates(connection))
    rows = connection.execute(
        sa.text("SELECT feature, start_ms, micro, per_quantity FROM provider_rates WHERE provider = :provider"),
        {"provider": provider},
    )
    return [Rate(*row) for row in rows]


def policies_of(connection: sa.Connection, provider: str) -> dict[str, str]:
    """The policy of each plan that has one of its own; '' stands for every other."""
    rows = connection.execute(
        sa.text("SELECT plan, policy FROM provider_when_down WHERE provider = :provider"), {"provider": provider}
    )
    return {str(plan): str(policy) for plan, policy in rows}


def policy_for(policies: dict[str, str], plan: str | None) -> str:
    return policies.get(plan or "", policies.get("", DEFAULT_POLICY))
