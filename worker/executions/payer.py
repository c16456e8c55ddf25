"""Who asks for a run, and whose wallet pays for it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger import payers, plans
from drawdown.ledger.plans import PLAIN, HoldTerms
from drawdown.ledger.runs.reservations import Denied, Hold
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.catalog.owners import Claim, Owner, other_owner
from drawdown.worker.catalog.wallets import mirrored_at, wallets_at
from drawdown.worker.executions import remote as remote_runs
from drawdown.worker.executions.request import Request

SQL = queries(__file__)


@dataclass(frozen=True)
class Asker:
    """Who asks: an organisation, who bills it now as which customer (None: nobody), and what keeps it from running."""

    org_id: str
    provider: str | None
    customer_id: str | None
    is_halted: bool
    halt_reason: str | None
    stopped_at_ms: int | None

    def require_running(self) -> None:
        """Errors: Denied `halted`, `stopped`."""
        if self.is_halted:
            why = self.halt_reason or "no reason is on record"
            said = f"{self.org_id} is halted ({why}): see `drawdown org show {typed(self.org_id)}`"
            raise Denied("halted", said, "account_state")
        if self.stopped_at_ms is not None:
            raise Denied(
                "stopped", f"{self.org_id} is stopped: see `drawdown org show {typed(self.org_id)}`", "account_state"
            )


@dataclass(frozen=True)
class Paying:
    """Whose wallet pays, and the terms of its plan; or, where the hold lies elsewhere, who is billed at which
    provider."""

    customer_id: str
    terms: HoldTerms = PLAIN
    hold: Hold = "wallet"
    provider: str = ""
    payer: payers.Payer | None = None


def read_asker(connection: sa.Connection, org_id: str, now_ms: int) -> Asker:
    """One statement, as every run asks for it: an organisation that nobody knows is billed by nobody."""
    row = SQL.run(connection, "asker", {"org_id": org_id, "now_ms": now_ms}).mappings().one()
    return Asker(org_id, **{**row, "is_halted": bool(row["is_halted"])})


def sponsor(connection: sa.Connection, request: Request, asker: Asker, now_ms: int) -> Paying | None:
    """The payer that a request names; None where the organisation itself pays. The nearest name is told of those alone
    who pay for it; to whom no names are told, one that is unknown is one that does not pay. Errors: UnknownId;
    Denied."""
    payer, org_id = request.payer, request.org_id
    if payer is None:
        return None
    ids.require(connection, ids.CUSTOMER, org_id)
    if ids.tells_names(connection) and not ids.is_known(connection, ids.CUSTOMER, payer):
        raise ids.unknown(ids.PAYER, payer, payers.of_org(connection, org_id))
    if payer == (asker.customer_id or org_id):
        return None
    found = payers.require(connection, payer, org_id, now_ms)
    terms = plans.hold_terms(connection, payer)
    if terms is None:
        raise _no_wallet(payer)
    return Paying(payer, terms, payer=found)


def own_wallet(connection: sa.Connection, asker: Asker, now_ms: int) -> Paying:
    """Whose wallet pays for an organisation: its customer's at its biller; its own where nobody bills it, unless that
    belongs to somebody else. Whose balance
    its biller keeps has none here, nor has who is billed afterwards and was never given credit."""
    org_id, provider = asker.org_id, asker.provider
    billed = provider is not None and provider not in EXEMPT_PROVIDERS
    customer = asker.customer_id if billed and asker.customer_id else org_id
    here = wallets_at(connection)
    if provider is not None and billed and provider not in here:
        hold = remote_runs.hold_at(connection, org_id, now_ms, in_ledger=False)
        return Paying(customer, hold=hold, provider=provider)
    other = other_owner(connection, Claim(org_id, customer, now_ms, now_ms + 1), here)
    if other is not None:
        raise _other_wallet(connection, org_id, customer, other)
    terms = plans.hold_terms(connection, customer)
    if terms is not None:
        return Paying(customer, terms)
    if provider is None:
        ids.require(connection, ids.ASKING, org_id)
    elif provider in mirrored_at(connection):
        hold = remote_runs.hold_at(connection, org_id, now_ms, in_ledger=True)
        return Paying(customer, hold=hold, provider=provider)
    raise _no_wallet(customer)


def _other_wallet(connection: sa.Connection, org_id: str, customer_id: str, other: Owner) -> Denied:
    """Whose it is, those to whom no names are told do not learn."""
    whose = "a pool's" if other.org_id is None else f"that of {other.org_id}"
    whose = whose if ids.tells_names(connection) else "somebody else's"
    return Denied(
        "payer_not_allowed",
        f"the wallet {customer_id} is {whose}, and does not pay for runs of {org_id}: give it a customer of its own "
        f"with `drawdown org assign {typed(org_id, '--customer', 'CUSTOMER')}`",
        "account",
    )


def _no_wallet(customer_id: str) -> Denied:
    text = f"{customer_id} has no credit yet: `drawdown ledger grant {typed(customer_id, 'CREDITS')}`"
    return Denied("no_wallet", text, "account")
