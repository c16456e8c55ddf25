"""Decide whether an organisation may start an execution.

The steps check organisation, paying wallet, account state, plan, project, action and credits.

Guarantee: the order of the steps is fixed, and an error names the first step that refuses (`Denied.step`). This module
writes only the blocks that a person sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Literal

import sqlalchemy as sa

from drawdown.ledger import accounts, due_changes, pools, reservations
from drawdown.ledger.accounts import PLAIN, HoldTerms
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.rates import RateCard, read_rate_card
from drawdown.ledger.reservations import Denied, Hold, NotTogether, Reservation
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value, typed
from drawdown.schema.units import EXEMPT_PROVIDERS, as_credits, counted_credits
from drawdown.worker.catalog.wallets import Claim, Owner, mirrored_at, other_owner, wallets_at
from drawdown.worker.executions import remote as remote_runs
from drawdown.worker.executions.request import Request, bad_estimate
from drawdown.worker.verdict.effective_balance import unbilled_micro
from drawdown.worker.verdict.holds import freed_by_now, shrink_of
from drawdown.worker.verdict.rates import rate_card_of

SQL = queries(__file__)


@dataclass(frozen=True)
class Permit:
    """The permission: the paying customer, the amount to reserve, and the terms.

    `amount_micro`: the amount in micro-credits. `payer`: the permission of another payer, which then reserves credit in
    its wallet (None: the organisation's own wallet or customer pays). `hold`: the kind of the reservation, `wallet`,
    `local` or `declared`. `provider`: the provider that bills, if the reservation is not in a wallet.
    """

    customer_id: str
    amount_micro: int
    terms: HoldTerms
    payer: pools.Payer | None = None
    hold: Hold = "wallet"
    provider: str = ""


def permit(connection: sa.Connection, request: Request, now_ms: int, asker: Asker | None = None) -> Permit:
    """Check every step of permission except the last, credits.

    The reservation itself checks the credits.

    `asker`: the requesting organisation, if it was read already (None: read it). Errors: Denied with the step that
    refuses; UnknownId; UsageError.
    """
    if asker is None or asker.org_id != request.org_id:
        asker = read_asker(connection, request.org_id, now_ms)
    paying = sponsor(connection, request, asker, now_ms) or own_wallet(connection, asker, now_ms)
    here = paying.hold == "wallet"
    if not here:
        _require_elsewhere(request, paying.provider)
    asker.require_running()
    priced = to_hold if here else _estimate_at_provider
    amount = priced(connection, request, paying, now_ms)
    _require_unblocked(connection, request)
    if request.supplier is not None:
        ids.require(connection, ids.SUPPLIER, request.supplier)
    if request.sandboxes:
        _require_own_sandboxes(connection, request, now_ms)
    if request.settled_by == "metering":
        reservations.require_few(connection, paying.customer_id, now_ms, with_new=False)
    return Permit(paying.customer_id, amount, paying.terms, paying.payer, paying.hold, paying.provider)


def permit_together(connection: sa.Connection, requests: Sequence[Request], now_ms: int) -> list[Permit]:
    """Check several requests of one organisation as `permit` does.

    The function reads facts that the requests share only once.

    Errors: Denied, UnknownId or UsageError for any request; NotTogether if a wallet in this database does not pay.
    """
    (org_id,) = {request.org_id for request in requests}
    asker = read_asker(connection, org_id, now_ms)
    paying = own_wallet(connection, asker, now_ms)
    if paying.hold != "wallet":
        raise NotTogether("a provider keeps the balance, so each execution must be decided alone")
    asker.require_running()
    card = read_rate_card(connection, now_ms) if any(request.quantities for request in requests) else None
    amounts = [to_hold(connection, request, paying, now_ms, card) for request in requests]
    for request in {(one.project, one.action): one for one in requests}.values():
        _require_unblocked(connection, request)
    for supplier in sorted({one.supplier for one in requests if one.supplier is not None}):
        ids.require(connection, ids.SUPPLIER, supplier)
    return [Permit(paying.customer_id, amount, paying.terms) for amount in amounts]


def require_room(connection: sa.Connection, found: Permit, wallet: accounts.Wallet, now_ms: int) -> None:
    """Check the last step, credits, against the paying wallet, for a preview.

    When an execution is accepted, the reservation itself checks the credits. `remote.require_room` checks a provider's
    balance. Errors: Denied.
    """
    most = found.terms.most_held_micro
    capped = most is not None and wallet.held_micro + found.amount_micro > most
    if found.payer is not None:
        if capped or found.amount_micro > wallet.available_micro:
            raise reservations.no_room_of_payer(found.customer_id, found.amount_micro, capped=capped)
        pools.require_room(connection, found.payer, found.amount_micro, now_ms)
    if most is not None and capped:
        raise reservations.too_much_held(found.customer_id, wallet.held_micro, found.amount_micro, most)
    if found.amount_micro > wallet.available_micro:
        raise reservations.no_credit(
            connection,
            found.customer_id,
            found.amount_micro,
            unbilled_micro=wallet.unbilled_micro,
            available_micro=wallet.available_micro,
        )


def look_ahead(connection: sa.Connection, customer_id: str, now_ms: int) -> accounts.Wallet:
    """Return a wallet with its due changes and its uncharged usage.

    The charges of metering reduce its reservations.
    """
    found = without_freed(connection, customer_id, due_changes.look_ahead(connection, customer_id, now_ms), now_ms)
    return with_unbilled(connection, customer_id, found, now_ms)


def with_unbilled(connection: sa.Connection, customer_id: str, found: accounts.Wallet, now_ms: int) -> accounts.Wallet:
    """Return the wallet with its recorded usage that is not charged yet."""
    return replace(found, unbilled_micro=unbilled_micro(connection, customer_id, now_ms))


def without_freed(connection: sa.Connection, customer_id: str, found: accounts.Wallet, now_ms: int) -> accounts.Wallet:
    """Return the wallet with its reservations reduced by the charges of metering."""
    if not found.held_micro:
        return found
    return replace(found, held_micro=found.held_micro - freed_by_now(connection, customer_id, now_ms))


def make_room(
    connection: sa.Connection,
    customer_id: str,
    wanted_micro: int,
    most_held_micro: int | None,
    now_ms: int,
    growing: Reservation | None = None,
) -> int:
    """Reduce a wallet's reservations by metered charges if it seems to lack credit.

    If the wallet would lack credit even without its reservations, the function does not read metered charges.
    `growing`: the execution that needs `wanted_micro` reserved in all (None: a new execution). Return the wallet's
    uncharged usage, in micro-credits.
    """
    found = with_unbilled(connection, customer_id, due_changes.look_ahead(connection, customer_id, now_ms), now_ms)
    least = wanted_micro
    if growing is not None:  # the metered charges of this execution are not known yet
        kept = max(growing.amount_micro, growing.drawn_micro)
        least = 0 if growing.settled_by == "metering" else wanted_micro - kept
    most = reservations.NO_END_MICRO if most_held_micro is None else most_held_micro
    may = least <= min(most, found.available_micro + found.held_micro)
    above = found.held_micro + wanted_micro > most
    if found.held_micro and may and (above or found.available_micro < wanted_micro):
        shrink_of(connection, [customer_id], now_ms, growing.reservation if growing else "")
    return found.unbilled_micro


def above_cap(wanted_micro: int, most_micro: int) -> Denied:
    """Return the refusal of an amount above the plan's limit for one execution."""
    wanted = counted_credits(wanted_micro)
    text = f"the request for {wanted} exceeds the plan's limit for one execution, {as_credits(most_micro)}"
    return Denied("above_cap", f"{text}. Request less, or change the plan", "plan")


def _require_unblocked(connection: sa.Connection, request: Request) -> None:
    values = {"org_id": request.org_id, "project": request.project or "", "action": request.action or ""}
    row = SQL.run(connection, "blocks", values).first()
    if row is not None:
        undo = f"`drawdown execution block --org {quote(request.org_id)} --{row.kind} {quote(row.name)} --undo`"
        raise Denied(
            "blocked", f"the {row.kind} {row.name} is blocked ({row.reason}). To unblock it, run {undo}", row.kind
        )


def _require_own_sandboxes(connection: sa.Connection, request: Request, now_ms: int) -> None:
    """Refuse sandboxes of other organisations, or of another execution.

    An unknown sandbox is accepted, because it may start later. If the caller may not learn names, another
    organisation's sandbox counts as unknown. The samples of that sandbox still belong to the other organisation.
    Errors: Denied.
    """
    values = {"org_id": request.org_id, "names": request.named}
    other = SQL.run(connection, "of_others", values).scalar() if ids.tells_names(connection) else None
    if other is not None:
        raise Denied(
            "other_org",
            f"sandbox {other} does not belong to {request.org_id}. Name only sandboxes of {request.org_id}",
        )
    reservations.require_free(connection, request.org_id, request.named, now_ms)


def to_hold(
    connection: sa.Connection, request: Request, paying: Paying, now_ms: int, card: RateCard | None = None
) -> int:
    """Return the micro-credits to reserve for an execution.

    They are the estimate times the plan's factor or, without an estimate, the plan's amount for unknown costs.

    Errors: Denied `no_estimate`, `above_cap`, `no_rate`; UnknownId; UsageError.
    """
    terms = paying.terms
    if request.quantities is None and request.amount_micro is None:
        if terms.unknown_hold_micro is None:
            raise Denied(
                "no_estimate",
                "an execution needs an estimate, unless its plan reserves credit without an estimate. Pass "
                "credits, or quantities of features",
                "plan",
            )
        return terms.unknown_hold_micro
    estimate = _priced(connection, request, now_ms, card)
    if terms.most_hold_micro is not None and estimate > terms.most_hold_micro:
        raise above_cap(estimate, terms.most_hold_micro)
    return terms.held_for(estimate)


def _require_elsewhere(request: Request, provider: str) -> None:
    """Refuse a request that a provider's billing cannot fulfil.

    Errors: Denied `needs_quantities`, `needs_wallet`.
    """
    said = f"{request.org_id} is billed by features at {provider}"
    if request.quantities is None:
        raise Denied("needs_quantities", f"{said}. Estimate in quantities, with --use FEATURE=N", "account")
    for asked, what in (
        (request.supplier is not None, "A share for a supplier"),
        (request.overage == "cap", "The overage `cap`"),
        (bool(request.sandboxes), "A list of sandboxes"),
    ):
        if asked:
            text = f"{said}. {what} needs a wallet here. Omit it, or name a payer with a wallet"
            raise Denied("needs_wallet", text, "account")


def _estimate_at_provider(connection: sa.Connection, request: Request, paying: Paying, now_ms: int) -> int:
    """Return the estimate of an execution that a provider bills, in micro-credits.

    That provider's rates apply. Plans of the embedded ledger do not apply. Errors: Denied `no_rate`; UsageError.
    """
    card, amount = rate_card_of(connection, paying.provider), 0
    for line in (request.quantities or {}).items():
        amount += remote_runs.price_of(connection, card, paying.provider, line, now_ms)
    return _sane_amount(amount)


def _priced(connection: sa.Connection, request: Request, now_ms: int, card: RateCard | None) -> int:
    """Return a request's estimate in micro-credits, by the present rate card.

    `card` None: read the card. Errors: Denied `no_rate`; UnknownId; UsageError.
    """
    if request.quantities is None:
        assert request.amount_micro is not None
        return request.amount_micro
    card, amount = card or read_rate_card(connection, now_ms), 0
    for feature, quantity in request.quantities.items():
        price = card.price(feature, now_ms, quantity)
        if price is None:
            _require_feature(connection, feature)
            raise Denied(
                "no_rate",
                f"feature {feature} does not have a rate. Run `drawdown ledger rate {feature} --micro-credits N`",
            )
        amount += price
    return _sane_amount(amount)


def _sane_amount(amount: int) -> int:
    if not 0 < amount <= MAX_ENTRY_MICRO:
        raise bad_estimate()
    return amount


def _require_feature(connection: sa.Connection, feature: str) -> None:
    """Refuse an unknown feature.

    The error names the command that creates the feature with its rate. Errors: UnknownId.
    """
    try:
        ids.require(connection, ids.FEATURE, feature)
    except UnknownId as error:
        text = f"{error}. To create its rate, run `drawdown ledger rate {feature} --micro-credits N --new`"
        raise UnknownId(text, error.noun, error.near) from error


@dataclass(frozen=True)
class Asker:
    """The present state of an organisation that requests an execution.

    `provider`, `customer_id` None: the organisation is not assigned. `halt_reason`: the reason of its halt, if
    `is_halted`. `stopped_at_ms`: the time when it was stopped (None: it is not stopped).
    """

    org_id: str
    provider: str | None
    customer_id: str | None
    is_halted: bool
    halt_reason: str | None
    stopped_at_ms: int | None

    def require_running(self) -> None:
        """Refuse a halted or stopped organisation. Errors: Denied `halted`, `stopped`."""
        if self.is_halted:
            why = self.halt_reason or "the reason is not on record"
            said = f"{self.org_id} is halted ({why}). Run `drawdown org show {typed(self.org_id)}`"
            raise Denied("halted", said, "account_state")
        if self.stopped_at_ms is not None:
            raise Denied(
                "stopped", f"{self.org_id} is stopped. Run `drawdown org show {typed(self.org_id)}`", "account_state"
            )


@dataclass(frozen=True)
class Paying:
    """The wallet that pays, with the terms of its plan.

    If `hold` is not `wallet`, a wallet does not pay, and `provider` bills the customer. `payer`: the permission of
    another payer (None: the organisation's own wallet or customer pays).
    """

    customer_id: str
    terms: HoldTerms = PLAIN
    hold: Hold = "wallet"
    provider: str = ""
    payer: pools.Payer | None = None


def read_asker(connection: sa.Connection, org_id: str, now_ms: int) -> Asker:
    """Return the present state of an organisation that requests an execution.

    If the organisation is unknown, its provider is None. Every execution needs this call, so it is one statement.
    """
    row = SQL.run(connection, "asker", {"org_id": org_id, "now_ms": now_ms}).mappings().one()
    return Asker(org_id, **{**row, "is_halted": bool(row["is_halted"])})


def sponsor(connection: sa.Connection, request: Request, asker: Asker, now_ms: int) -> Paying | None:
    """Return the payer that a request names; None if the organisation itself pays.

    If the payer is unknown, the error suggests the organisation's payer with the most similar name. If the caller may
    not learn names, the error is the same as for a customer that does not pay for the organisation. Errors: UnknownId;
    Denied.
    """
    payer, org_id = request.payer, request.org_id
    if payer is None:
        return None
    ids.require(connection, ids.CUSTOMER, org_id)
    if ids.tells_names(connection) and not ids.is_known(connection, ids.CUSTOMER, payer):
        raise ids.unknown(ids.PAYER, payer, pools.of_org(connection, org_id))
    if payer == (asker.customer_id or org_id):
        return None
    found = pools.require(connection, payer, org_id, now_ms)
    terms = accounts.hold_terms(connection, payer)
    if terms is None:
        raise _no_wallet(payer)
    return Paying(payer, terms, payer=found)


def own_wallet(connection: sa.Connection, asker: Asker, now_ms: int) -> Paying:
    """Return the wallet that pays for an organisation.

    The wallet is that of the organisation's customer at its provider. Without a provider, it is the organisation's own
    wallet, unless that wallet has another owner. If the provider keeps the balance itself, the result names the
    provider instead of a wallet. The same applies to a customer that is billed afterwards and never had credit. Errors:
    Denied; UnknownId.
    """
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
    terms = accounts.hold_terms(connection, customer)
    if terms is not None:
        return Paying(customer, terms)
    if provider is None:
        ids.require(connection, ids.ASKING, org_id)
    elif provider in mirrored_at(connection):
        hold = remote_runs.hold_at(connection, org_id, now_ms, in_ledger=True)
        return Paying(customer, hold=hold, provider=provider)
    raise _no_wallet(customer)


def _other_wallet(connection: sa.Connection, org_id: str, customer_id: str, other: Owner) -> Denied:
    """Return the refusal of a wallet with another owner.

    Name the owner only if the caller may learn names.
    """
    whose = "a pool" if other.org_id is None else other.org_id
    whose = whose if ids.tells_names(connection) else "another owner"
    return Denied(
        "payer_not_allowed",
        f"the wallet {customer_id} belongs to {whose}, and does not pay for executions of {org_id}. Assign a separate "
        f"customer with `drawdown org assign {typed(org_id, '--customer', 'CUSTOMER')}`",
        "account",
    )


def _no_wallet(customer_id: str) -> Denied:
    text = f"customer {customer_id} does not have a wallet. Run `drawdown ledger grant {typed(customer_id, 'AMOUNT')}`"
    return Denied("no_wallet", text, "account")


def block(
    connection: sa.Connection,
    org_id: str,
    kind: Literal["project", "action"],
    name: str,
    by: By,
    *,
    undo: bool = False,
    new: bool = True,
) -> bool:
    """Block new executions of an organisation's project or action.

    `undo`: unblock them. Return True if the call changed the block.

    Accepted executions continue. Errors: UsageError for an invalid name; UnknownId for an unknown organisation. Unless
    `new`, UnknownId also for a name without executions.
    """
    ids.require(connection, ids.CUSTOMER, org_id)
    if not is_clean_id(name):
        raise UsageError(f"invalid {kind} {quote_value(name)}: expected 1 to 200 characters without control characters")
    ids.require(connection, ids.PROJECT if kind == "project" else ids.ACT, name, new=new)
    values = {"org_id": org_id, "kind": kind, "name": name, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    changed = SQL.run(connection, "unblock" if undo else "block", values).first() is not None
    if changed:
        record(connection, "run_unblock" if undo else "run_block", org_id, {"kind": kind, "name": name}, by)
    return changed
