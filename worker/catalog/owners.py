"""Whose a wallet is (P4).

Guarantee: a wallet is spent by its owner, or by an organisation that the owner allowed (`ledger.payers`). An
assignment, the tick that assigns newcomers, an execution and the guard ask it here, and get one answer. A pool is its
own owner; any other wallet belongs to the organisation that is billed as its customer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import EMBEDDED

SQL = queries(__file__)


@dataclass(frozen=True)
class Claim:
    """An organisation would spend a customer's credit from `start_ms` on, before `end_ms` (None: for good)."""

    org_id: str
    customer_id: str
    start_ms: int
    end_ms: int | None = None


@dataclass(frozen=True)
class Owner:
    """Somebody else that the credit belongs to: an organisation, billed by `provider`; or a pool (both None)."""

    org_id: str | None = None
    provider: str | None = None


def other_owners(connection: sa.Connection, claims: Sequence[Claim], providers: Collection[str]) -> dict[Claim, Owner]:
    """Those of the claims to credit that belongs to somebody else, with the first owner. `providers`: those at which
    such a customer has the same balance (`wallets.one_wallet_at`)."""
    asked = [{"n": n, **vars(claim)} for n, claim in enumerate(claims)]
    values = {"claims": asked, "providers": sorted(providers), "in_ledger": int(EMBEDDED in providers)}
    found: dict[Claim, Owner] = {}
    for row in SQL.run(connection, "other_owners", values) if asked else ():
        owner = Owner() if row.pool is not None else Owner(row.org_id, row.provider)
        found.setdefault(claims[int(row.n)], owner)
    return found


def other_owner(connection: sa.Connection, claim: Claim, providers: Collection[str]) -> Owner | None:
    """The same for one claim; None where nobody else owns it."""
    return other_owners(connection, [claim], providers).get(claim)
