"""An operator's settings for estimates: the cost of usage at a provider, and the policy while it cannot be read.

Guarantee: rates are append-only and begin at a window. Both are on record with actor and reason. Nothing is charged by
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.rates import Rate, RateCard, read_rate_card
from drawdown.schema.sql import Part, queries
from drawdown.worker.catalog.wallets import wallets_at

SQL = queries(__file__)

POLICIES: Final = ("go_on", "estimate", "stop")
DEFAULT_POLICY: Final = "estimate"


def uses_ledger(connection: sa.Connection, provider: str) -> bool:
    """Whether a provider's balance is a wallet of the embedded ledger, so that the rate card holds."""
    return provider in wallets_at(connection)


def rate_card_of(connection: sa.Connection, provider: str) -> RateCard:
    """What usage costs at a provider, in millionths of the unit of its balance."""
    if uses_ledger(connection, provider):
        return read_rate_card(connection)
    return card_of(SQL.run(connection, "rates", {"provider": provider}))


def rates_part(provider: str) -> Part:
    """The rates of a provider that keeps balances itself, for whoever reads more in one statement: rows for
    `card_of`."""
    return SQL.part("rates", {"provider": provider})


def card_of(rows: Iterable[Any]) -> RateCard:
    """A provider's rates that were read."""
    return RateCard(Rate(row.feature, row.start_ms, row.micro, row.per_quantity) for row in rows)


def policies_of(connection: sa.Connection, provider: str) -> dict[str, str]:
    """The policy of each plan that has one of its own; '' stands for every other."""
    rows = SQL.run(connection, "policies", {"provider": provider})
    return {str(row.plan): str(row.policy) for row in rows}


def policy_for(policies: dict[str, str], plan: str | None) -> str:
    return policies.get(plan or "", policies.get("", DEFAULT_POLICY))
