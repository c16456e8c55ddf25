"""The wallets of the embedded ledger: customers, owners (P4) and prices.

Guarantee: all callers use this module to find a wallet's rate card, its customers, and the customers to read again
after its changes. These customers are the ledger's own, and those of providers without a hard stop. Only its owner, or
an organisation that the owner allowed (`ledger.pools`), uses a wallet. A pool is its own owner. Any other wallet
belongs to the organisation that is billed as its customer. Prices are in integer micro-credits. A feature without a
rate does not have a price.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from drawdown.ledger.rates import RateCard, read_rate_card
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import EMBEDDED, EXEMPT_PROVIDERS

SQL = queries(__file__)


def wallets_at(connection: sa.Connection) -> Collection[str]:
    """Return the providers that keep balances in the ledger, by the terms in force."""
    return with_wallets(SQL.run(connection, "terms_in_force"))


def terms_part() -> Part:
    """Return the query of the terms in force: rows for `with_wallets`.

    One statement can run this query together with others.
    """
    return SQL.part("terms_in_force")


def with_wallets(stored: Iterable[Any]) -> Collection[str]:
    """Return the providers that keep balances in the ledger, by rows of `terms_part`."""
    return {EMBEDDED, *(row.provider for row in stored if json.loads(row.terms).get("balance_in_ledger"))}


def mirrors(provider: str) -> bool:
    """Return True if a wallet mirrors the bills of this provider.

    Drawdown then also charges accepted pushes to the wallet.
    """
    return provider != EMBEDDED


def mirrored_at(connection: sa.Connection) -> Collection[str]:
    """Return the providers with wallets here that charge customers elsewhere."""
    return set(filter(mirrors, wallets_at(connection)))


def one_wallet_at(connection: sa.Connection, provider: str, in_ledger: Collection[str] = ()) -> list[str]:
    """Return a provider and all providers that share its wallets, sorted.

    Equal customer ids at these providers mean the same wallet. If the provider does not keep balances in the ledger,
    the result has only this provider.

    `in_ledger`: providers that declare such wallets, and do not have terms in force yet.
    """
    theirs = {*wallets_at(connection), *in_ledger}
    return sorted(theirs) if provider in theirs else [provider]


def orgs_of(connection: sa.Connection, customer_ids: Sequence[str]) -> list[str]:
    """Return the organisations that may get another verdict if these wallets change.

    They are, were or will be billed as these customers, at a provider with wallets in this database.
    """
    theirs = wallets_at(connection)
    rows = SQL.run(connection, "orgs_of_customers", {"customers": [{"id": customer} for customer in customer_ids]})
    return sorted({str(row.org_id) for row in rows if row.provider in theirs})


def keeper_of(connection: sa.Connection, customer_id: str, now_ms: int) -> str | None:
    """Return the provider that keeps a customer's balance itself.

    None: the customer does not have a provider, or one of its providers keeps its balance in the embedded ledger.
    """
    here, billers = wallets_at(connection), _billers(connection, customer_id, now_ms)
    others = [biller for biller in billers if biller not in {*here, *EXEMPT_PROVIDERS}]
    return others[0] if others and not any(biller in here for biller in billers) else None


def billed_elsewhere(connection: sa.Connection, customer_id: str, now_ms: int) -> bool:
    """Return True if a provider other than the embedded ledger bills a customer.

    Such a customer does not need a wallet.
    """
    return not {EMBEDDED, *EXEMPT_PROVIDERS}.issuperset(_billers(connection, customer_id, now_ms))


def _billers(connection: sa.Connection, customer_id: str, now_ms: int) -> list[str]:
    return [provider for _, provider in billed_as(connection, customer_id, now_ms)]


def billed_as(connection: sa.Connection, customer_id: str, now_ms: int) -> list[tuple[str, str]]:
    """Return the organisations billed as a customer now, each with its provider."""
    values = {"customer_id": customer_id, "at_ms": now_ms}
    return [(str(row.org_id), str(row.provider)) for row in SQL.run(connection, "billers", values)]


def billers_part(customer_id: str, now_ms: int) -> Part:
    """Return the query of a customer's billers.

    One statement can run this query together with others.
    """
    return SQL.part("billers", {"customer_id": customer_id, "at_ms": now_ms})


def customers_on(connection: sa.Connection, plan: str) -> list[str]:
    """Return the customers with a wallet on a plan."""
    accounts = SQL.run(connection, "wallets_on_plan", {"plan": plan}).scalars()
    return [str(account).removeprefix("wallet:") for account in accounts]


@dataclass(frozen=True)
class Claim:
    """The claim of an organisation to use a customer's credit for a time.

    The claim lasts from `start_ms` until just before `end_ms` (None: without an end).
    """

    org_id: str
    customer_id: str
    start_ms: int
    end_ms: int | None = None


@dataclass(frozen=True)
class Owner:
    """The other owner of credit: an organisation, or a pool.

    `org_id`: the organisation. `provider`: the provider that bills it. For a pool, both fields are None.
    """

    org_id: str | None = None
    provider: str | None = None


def other_owners(connection: sa.Connection, claims: Sequence[Claim], providers: Collection[str]) -> dict[Claim, Owner]:
    """Return the claims to credit that has another owner, each with the first owner.

    `providers`: the providers at which such a customer has the same balance (`one_wallet_at`).
    """
    asked = [{"n": n, **vars(claim)} for n, claim in enumerate(claims)]
    values = {"claims": asked, "providers": sorted(providers), "in_ledger": int(EMBEDDED in providers)}
    found: dict[Claim, Owner] = {}
    for row in SQL.run(connection, "other_owners", values) if asked else ():
        owner = Owner() if row.pool is not None else Owner(row.org_id, row.provider)
        found.setdefault(claims[int(row.n)], owner)
    return found


def other_owner(connection: sa.Connection, claim: Claim, providers: Collection[str]) -> Owner | None:
    """Return the other owner of a claim's credit.

    None: the credit does not have another owner.
    """
    return other_owners(connection, [claim], providers).get(claim)


def rate_card(connection: sa.Connection) -> RateCard:
    """Return the embedded ledger's present rate card."""
    return read_rate_card(connection)


def add(amount: int | None, other: int | None) -> int | None:
    """Return the sum of two amounts; None if either amount is None."""
    return None if amount is None or other is None else amount + other


def payable_micro(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    """Return the credit of a wallet that decides about halts, in micro-credits.

    The credit includes the due changes of the wallet.
    """
    from drawdown.ledger.wallet import read_ahead  # imported here, because `status` does not need it

    return read_ahead(connection, [customer_id], now_ms)[customer_id].payable_micro
