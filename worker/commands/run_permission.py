"""The permission to run what is asked for: account, its state, plan, project, action, credits.

Guarantee: the order is one, and the first step that refuses is named (`Denied.step`). Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from drawdown.ledger import accounts, maturing, payers, plans
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.plans import HoldTerms
from drawdown.ledger.rates import RateCard
from drawdown.ledger.runs import reservations, sandboxes
from drawdown.ledger.runs.reservations import Denied
from drawdown.ledger.wallet import read_rate_card
from drawdown.schema import ids
from drawdown.schema.errors import UnknownId
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS, MICRO
from drawdown.worker.catalog.wallets import wallets_at
from drawdown.worker.commands.run_request import Request as Request
from drawdown.worker.commands.run_request import bad_estimate
from drawdown.worker.verdict.metered import freed_by_now, shrink_of

SQL = queries(__file__)


@dataclass(frozen=True)
class Permit:
    """Who pays, what is held in micro-credits, and the terms it goes by. `payer`: what another one than the
    organisation itself allows."""

    customer_id: str
    amount_micro: int
    terms: HoldTerms
    payer: payers.Payer | None = None


def permit(connection: sa.Connection, request: Request, now_ms: int) -> Permit:
    """Every step but the last, credits: those are asked for where they are held. Errors: Denied, with its step."""
    payer = _sponsor(connection, request, now_ms)
    customer = _payer(connection, request.org_id, now_ms) if payer is None else payer.payer
    _require_running(connection, request.org_id)
    terms = plans.hold_terms(connection, customer)
    amount = _to_hold(connection, request, terms, now_ms)
    _require_unblocked(connection, request)
    if request.supplier is not None:
        ids.require(connection, ids.SUPPLIER, request.supplier)
    if request.sandboxes:
        _require_own_sandboxes(connection, request, now_ms)
    return Permit(customer, amount, terms, payer)


def permit_together(connection: sa.Connection, requests: Sequence[Request], now_ms: int) -> list[Permit]:
    """The same for several requests of one organisation: what is the same for all is asked for once. Errors: Denied, or
    UnknownId, of any of them."""
    (org_id,) = {request.org_id for request in requests}
    customer = _payer(connection, org_id, now_ms)
    _require_running(connection, org_id)
    terms = plans.hold_terms(connection, customer)
    card = read_rate_card(connection) if any(request.quantities for request in requests) else None
    amounts = [_to_hold(connection, request, terms, now_ms, card) for request in requests]
    for request in {(one.project, one.action): one for one in requests}.values():
        _require_unblocked(connection, request)
    for supplier in sorted({one.supplier for one in requests if one.supplier is not None}):
        ids.require(connection, ids.SUPPLIER, supplier)
    return [Permit(customer, amount, terms) for amount in amounts]


def require_room(connection: sa.Connection, found: Permit, now_ms: int) -> None:
    """The last step, for a look ahead: holding decides it. Errors: Denied."""
    wallet, most = look_ahead(connection, found.customer_id, now_ms), found.terms.most_held_micro
    capped = most is not None and wallet.held_micro + found.amount_micro > most
    if found.payer is not None:
        if capped or found.amount_micro > wallet.available_micro:
            raise reservations.no_room_of_payer(found.customer_id, found.amount_micro, capped=capped)
        payers.require_room(connection, found.payer, found.amount_micro)
    if most is not None and capped:
        raise reservations.too_much_held(found.customer_id, wallet.held_micro, found.amount_micro, most)
    if found.amount_micro > wallet.available_micro:
        raise reservations.no_credit(connection, found.customer_id, found.amount_micro)


def look_ahead(connection: sa.Connection, customer_id: str, now_ms: int) -> accounts.Wallet:
    """A wallet as it is once all is true that is due in it, and holds are no larger than metering has left them."""
    found = maturing.look_ahead(connection, customer_id, now_ms)
    return replace(found, held_micro=found.held_micro - freed_by_now(connection, customer_id, now_ms))


def make_room(
    connection: sa.Connection,
    customer_id: str,
    wanted_micro: int,
    most_held_micro: int | None,
    now_ms: int,
    own: str = "",
) -> None:
    """Where there seems to be no room, what metering has drawn of holds since they were looked at is no longer held."""
    found = accounts.read_wallets(connection, [customer_id])[customer_id]
    above = most_held_micro is not None and found.held_micro + wanted_micro > most_held_micro
    if found.held_micro and (above or found.available_micro < wanted_micro):
        shrink_of(connection, [customer_id], now_ms, own)


def above_cap(wanted_micro: int, most_micro: int) -> Denied:
    """More than one run may hold by the plan."""
    text = f"{wanted_micro / MICRO:g} credits are more than one run may hold by the plan: {most_micro / MICRO:g}"
    return Denied("above_cap", f"{text}; ask for less, or change the plan", "plan")


def _require_unblocked(connection: sa.Connection, request: Request) -> None:
    values = {"org_id": request.org_id, "project": request.project or "", "action": request.action or ""}
    row = SQL.run(connection, "blocks", values).first()
    if row is not None:
        undo = f"`drawdown execution block --org {request.org_id} --{row.kind} {row.name} --undo`"
        raise Denied("blocked", f"the {row.kind} {row.name} is blocked ({row.reason}); {undo} lets it run", row.kind)


def _require_own_sandboxes(connection: sa.Connection, request: Request, now_ms: int) -> None:
    """A sandbox that no host has told of yet may be named: it starts later."""
    values = {"org_id": request.org_id, "names": request.named}
    other = SQL.run(connection, "of_others", values).scalar()
    if other is not None:
        raise Denied("other_org", f"{other} is no sandbox of {request.org_id}: name its own ones")
    sandboxes.require_free(connection, request.org_id, request.named, now_ms)


def _to_hold(
    connection: sa.Connection, request: Request, terms: HoldTerms, now_ms: int, card: RateCard | None = None
) -> int:
    """A request's estimate times the plan's factor; without one, what the plan says."""
    if request.quantities is None and request.amount_micro is None:
        if terms.unknown_hold_micro is None:
            raise Denied("no_estimate", "a run needs an estimate: give credits, or quantities of features", "plan")
        return terms.unknown_hold_micro
    estimate = _priced(connection, request, now_ms, card)
    if terms.most_hold_micro is not None and estimate > terms.most_hold_micro:
        raise above_cap(estimate, terms.most_hold_micro)
    return terms.held_for(estimate)


def _sponsor(connection: sa.Connection, request: Request, now_ms: int) -> payers.Payer | None:
    """What the payer allows that a request names; None where the organisation itself pays. The nearest name is told of
    those alone who pay for it. Errors: UnknownId; Denied."""
    payer, org_id = request.payer, request.org_id
    if payer is None:
        return None
    ids.require(connection, ids.CUSTOMER, org_id)
    if not ids.is_known(connection, ids.CUSTOMER, payer):
        raise ids.unknown(ids.PAYER, payer, payers.of_org(connection, org_id))
    row = SQL.run(connection, "biller", {"org_id": org_id, "now_ms": now_ms}).one_or_none()
    if payer == (str(row.customer_id) if row is not None and row.customer_id else org_id):
        return None
    found = payers.require(connection, payer, org_id, now_ms)
    if not accounts.has_wallet(connection, payer):
        text = f"{payer} has no credit yet: `drawdown ledger grant {payer} CREDITS`"
        raise Denied("no_wallet", text, "account")
    return found


def _payer(connection: sa.Connection, org_id: str, now_ms: int) -> str:
    """Whose wallet pays for an organisation: its customer's at its biller; its own where nobody bills it."""
    row = SQL.run(connection, "biller", {"org_id": org_id, "now_ms": now_ms}).one_or_none()
    billed = row is not None and row.provider not in EXEMPT_PROVIDERS
    if row is not None and billed and row.provider not in wallets_at(connection):
        raise Denied(
            "no_wallet",
            f"{org_id} is billed by {row.provider}, which keeps its balances itself: no credit can be held here",
            "account",
        )
    customer = str(row.customer_id) if row is not None and billed and row.customer_id else org_id
    if not accounts.has_wallet(connection, customer):
        if row is None:
            ids.require(connection, ids.CUSTOMER, org_id)
        raise Denied(
            "no_wallet", f"{customer} has no credit yet: `drawdown ledger grant {customer} CREDITS`", "account"
        )
    return customer


def _require_running(connection: sa.Connection, org_id: str) -> None:
    row = SQL.run(connection, "standing", {"org_id": org_id}).one_or_none()
    if row is not None and row.is_halted:
        why = row.halt_reason or "no reason is on record"
        raise Denied("halted", f"{org_id} is halted ({why}): see `drawdown org show {org_id}`", "account_state")
    if row is not None and row.stopped_at_ms is not None:
        raise Denied("stopped", f"{org_id} is stopped: see `drawdown org show {org_id}`", "account_state")


def _priced(connection: sa.Connection, request: Request, now_ms: int, card: RateCard | None) -> int:
    """A request's estimate, by the rate card of now (None: it is read)."""
    if request.quantities is None:
        assert request.amount_micro is not None
        return request.amount_micro
    card, amount = card or read_rate_card(connection), 0
    for feature, quantity in request.quantities.items():
        price = card.price(feature, now_ms, quantity)
        if price is None:
            _require_feature(connection, feature)
            raise Denied("no_rate", f"{feature} has no rate: `drawdown ledger rate {feature} --micro-credits N`")
        amount += price
    if not 0 < amount <= MAX_ENTRY_MICRO:
        raise bad_estimate()
    return amount


def _require_feature(connection: sa.Connection, feature: str) -> None:
    """Errors: UnknownId, which says how a feature of runs is made: by its price."""
    try:
        ids.require(connection, ids.FEATURE, feature)
    except UnknownId as error:
        text = f"{error}; a price makes a new one: `drawdown ledger rate {feature} --micro-credits 2 --new`"
        raise UnknownId(text, error.noun, error.near) from error
