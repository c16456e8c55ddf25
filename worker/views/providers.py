"""What hangs on each provider: organisations, customers, open pushes. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

_ORGS = """
SELECT a.provider, COUNT(*) AS orgs, SUM(CASE WHEN a.customer_id = '' THEN 1 ELSE 0 END) AS without_customer
FROM assignments a WHERE a.start_ms <= :now AND (a.end_ms IS NULL OR :now < a.end_ms) GROUP BY a.provider
"""
_OPEN = """
SELECT provider, COUNT(*) AS pushes FROM pushes WHERE state IN ('due', 'queued', 'in_doubt', 'rejected')
GROUP BY provider
"""
_CUSTOMERS = """
SELECT customer_id FROM assignments WHERE provider = :provider AND customer_id <> ''
    AND (end_ms IS NULL OR :now < end_ms) ORDER BY 1 LIMIT :most
"""


@dataclass(frozen=True)
class ProviderLoad:
    """Organisations that a provider bills now, those of them without a customer there, and pushes not settled."""

    orgs: int = 0
    without_customer: int = 0
    open_pushes: int = 0


def provider_loads(connection: sa.Connection, now_ms: int) -> Mapping[str, ProviderLoad]:
    """By the provider's name; one that has neither organisations nor open pushes is left out."""
    open_pushes = {row.provider: int(row.pushes) for row in connection.execute(sa.text(_OPEN))}
    found = {name: ProviderLoad(open_pushes=pushes) for name, pushes in open_pushes.items()}
    for row in connection.execute(sa.text(_ORGS), {"now": now_ms}):
        found[row.provider] = ProviderLoad(int(row.orgs), int(row.without_customer), open_pushes.get(row.provider, 0))
    return found


def customers_at(connection: sa.Connection, provider: str, now_ms: int, most: int) -> list[str]:
    """Customers that are billed there, or will be."""
    values = {"provider": provider, "now": now_ms, "most": most}
    return list(connection.execute(sa.text(_CUSTOMERS), values).scalars())


def providers_in_use(connection: sa.Connection) -> list[str]:
    """Providers that bill organisations from some time on without an end; `none` and `legacy` bill nothing."""
    query = (
        "SELECT DISTINCT provider FROM assignments WHERE end_ms IS NULL AND provider NOT IN ('legacy', 'none') "
        "ORDER BY 1"
    )
    return list(connection.execute(sa.text(query)).scalars())
