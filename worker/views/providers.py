"""The dependents of each provider: organisations, customers, open pushes. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class ProviderLoad:
    """Organisations that a provider bills now, those of them without a customer there, and pushes not settled."""

    orgs: int = 0
    without_customer: int = 0
    open_pushes: int = 0


def provider_loads(connection: sa.Connection, now_ms: int) -> Mapping[str, ProviderLoad]:
    """By the provider's name; one that has neither organisations nor open pushes is left out."""
    open_pushes = {row.provider: int(row.pushes) for row in SQL.run(connection, "open_pushes")}
    found = {name: ProviderLoad(open_pushes=pushes) for name, pushes in open_pushes.items()}
    for row in SQL.run(connection, "orgs", {"now_ms": now_ms}):
        found[row.provider] = ProviderLoad(int(row.orgs), int(row.without_customer), open_pushes.get(row.provider, 0))
    return found


def customers_at(connection: sa.Connection, provider: str, now_ms: int, most: int) -> list[str]:
    """Customers that are billed there, or will be."""
    values = {"provider": provider, "now_ms": now_ms, "at_most": most}
    return list(SQL.run(connection, "customers", values).scalars())


def providers_in_use(connection: sa.Connection) -> list[str]:
    """Providers that bill organisations from some time on without an end; `none` and `legacy` bill nothing."""
    return list(SQL.run(connection, "in_use").scalars())
