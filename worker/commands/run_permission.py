"""What a run is asked for, and the permission to run it: account, its state, plan, project, action, credits.

Guarantee: the order is one, and the first step that refuses is named (`Denied.step`). Nothing is written here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import accounts, maturing, plans
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.plans import HoldTerms
from drawdown.ledger.rates import RateCard
from drawdown.ledger.runs import reservations
from drawdown.ledger.runs.grouped import NotTogether
from drawdown.ledger.runs.reservations import Denied, Hold, Overage
from drawdown.ledger.wallet import read_rate_card
from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, MICRO, MINUTE_MS
from drawdown.worker.catalog.wallets import mirrored_at, wallets_at
from drawdown.worker.commands import remote_runs
from drawdown.worker.verdict.rates import rate_card_of

SQL = queries(__file__)

LEAST_LIFE_MS: Final = MINUTE_MS
MOST_LIFE_MS: Final = 30 * DAY_MS
MOST_FEATURES: Final = 100
"""Of one estimate or cost."""


@dataclass(frozen=True)
class Request:
    """What a run is asked for: an estimate in micro-credits, or in base units by feature; labels; what becomes of what
    lies above the hold; and for how long the hold stands (milliseconds; queued runs wait longer by default)."""

    org_id: str
    amount_micro: int | None = None
    quantities: Mapping[str, int] | None = None
    project: str | None = None
    subject: str | None = None
    action: str | None = None
    overage: Overage = "charge"
    for_ms: int | None = None
    queued: bool = False
    supplier: str | None = None


@dataclass(frozen=True)
class Permit:
    """Who pays, what is held in micro-credits, and the terms it goes by."""

    customer_id: str
    amount_micro: int
    terms: HoldTerms
    hold: Hold = "wallet"


@dataclass(frozen=True)
class _Payer:
    """Whose wallet pays; or, where the hold lies elsewhere, who is billed at which provider."""

    customer_id: str
    hold: Hold = "wallet"
    provider: str = ""


def permit(connection: sa.Connection, request: Request, now_ms: int) -> Permit:
    """Every step but the last, credits: those are asked for where they are held. Errors: Denied, with its step."""
    payer = _payer(connection, request.org_id, now_ms)
    _require_running(connection, request.org_id)
    here = payer.hold == "wallet"
    terms = plans.hold_terms(connection, payer.customer_id) if here else HoldTerms()
    amount = _to_hold(connection, request, terms, now_ms) if here else _elsewhere(connection, request, payer, now_ms)
    _require_unblocked(connection, request)
    if request.supplier is not None:
        ids.require(connection, ids.SUPPLIER, request.supplier)
    return Permit(payer.customer_id, amount, terms, payer.hold)


def permit_together(connection: sa.Connection, requests: Sequence[Request], now_ms: int) -> list[Permit]:
    """The same for several requests of one organisation: what is the same for all is asked for once. Errors: Denied, or
    UnknownId, of any of them; NotTogether where they draw on no wallet."""
    (org_id,) = {request.org_id for request in requests}
    payer = _payer(connection, org_id, now_ms)
    if payer.hold != "wallet":
        raise NotTogether("each is decided by the balance that a provider keeps")
    customer = payer.customer_id
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
    """The last step, for a look ahead: holding decides it. Of a hold that lies in no wallet it is asked elsewhere.
    Errors: Denied."""
    wallet, most = maturing.look_ahead(connection, found.customer_id, now_ms), found.terms.most_held_micro
    if most is not None and wallet.held_micro + found.amount_micro > most:
        raise reservations.too_much_held(found.customer_id, wallet.held_micro, found.amount_micro, most)
    if found.amount_micro > wallet.available_micro:
        raise reservations.no_credit(connection, found.customer_id, found.amount_micro)


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


def _payer(connection: sa.Connection, org_id: str, now_ms: int) -> _Payer:
    """Whose wallet pays for an organisation: its customer's at its biller; its own where nobody bills it. Whose balance
    its biller keeps has none here, nor has who is billed afterwards and was never given credit."""
    row = SQL.run(connection, "biller", {"org_id": org_id, "now_ms": now_ms}).one_or_none()
    billed = row is not None and row.provider not in EXEMPT_PROVIDERS
    customer = str(row.customer_id) if row is not None and billed and row.customer_id else org_id
    if row is not None and billed and row.provider not in wallets_at(connection):
        return _Payer(customer, remote_runs.hold_at(connection, org_id, now_ms, in_ledger=False), row.provider)
    if not accounts.has_wallet(connection, customer):
        if row is None:
            ids.require(connection, ids.CUSTOMER, org_id)
        elif row.provider in mirrored_at(connection):
            return _Payer(customer, remote_runs.hold_at(connection, org_id, now_ms, in_ledger=True), row.provider)
        raise Denied(
            "no_wallet", f"{customer} has no credit yet: `drawdown ledger grant {customer} CREDITS`", "account"
        )
    return _Payer(customer)


def _elsewhere(connection: sa.Connection, request: Request, payer: _Payer, now_ms: int) -> int:
    """The estimate of a run that a provider bills, by that provider's rates. No plan of ours has a say in it.

    Errors: Denied `needs_quantities`, `needs_wallet`, `no_rate`; UsageError.
    """
    said = f"{request.org_id} is billed by features at {payer.provider}"
    if request.quantities is None:
        raise Denied("needs_quantities", f"{said}: estimate in quantities, --use FEATURE=N", "account")
    if request.supplier is not None or request.overage == "cap":
        what = "a supplier is owed a share" if request.supplier is not None else "a cost is written off"
        raise Denied("needs_wallet", f"{said}: {what} of credit in a wallet here alone", "account")
    card, amount = rate_card_of(connection, payer.provider), 0
    for line in request.quantities.items():
        amount += remote_runs.price_of(connection, card, payer.provider, line, now_ms)
    return _sane_amount(amount)


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
            ids.require(connection, ids.FEATURE, feature)
            raise Denied("no_rate", f"{feature} has no rate: `drawdown ledger rate {feature} --micro-credits N`")
        amount += price
    return _sane_amount(amount)


def _sane_amount(amount: int) -> int:
    if not 0 < amount <= MAX_ENTRY_MICRO:
        raise UsageError("an estimate comes to more than nothing, and to at most a thousand million credits")
    return amount


def fingerprint(request: Request) -> str:
    """Tells a repetition from another request under the same key. One without a supplier reads as before there were
    any."""
    said = json.dumps({k: v for k, v in asdict(request).items() if k != "supplier" or v}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def require_life(for_ms: int | None) -> None:
    """Errors: UsageError."""
    if for_ms is not None and not LEAST_LIFE_MS <= for_ms <= MOST_LIFE_MS:
        raise UsageError("a hold stands for a minute at least, and for 30 days at most")


def require_sane(request: Request) -> None:
    """Errors: UsageError."""
    for label in (request.project, request.subject, request.action):
        if label is not None and not is_clean_id(label):
            raise UsageError("a project, subject or action has 1 to 200 characters, none of them control characters")
    require_life(request.for_ms)
    if request.amount_micro is not None and request.quantities is not None:
        raise UsageError("an estimate is in credits or in quantities of features, not in both")
    if request.amount_micro is not None and not 0 < request.amount_micro <= MAX_ENTRY_MICRO:
        raise UsageError("an estimate is more than nothing, and at most a thousand million credits")
    require_quantities(request.quantities)


def require_quantities(quantities: Mapping[str, int] | None) -> None:
    """Errors: UsageError."""
    if quantities is None:
        return
    if not 0 < len(quantities) <= MOST_FEATURES:
        raise UsageError(f"give one feature at least, and {MOST_FEATURES} at most")
    if any(not 0 <= quantity < 2**53 for quantity in quantities.values()):
        raise UsageError("a quantity is a whole number from 0 to 2^53")
