"""Runs: previewed, accepted with a hold on credit, drawn on, extended, settled or released.

Guarantee: permission is asked in one order (account, its state, credits); the first that refuses is named. Each act is
one transaction, under the caller's key: whoever lost the answer gives it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import accounts, draws, reservations
from drawdown.ledger.draws import Cost, Drawn
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.reservations import Ask, Denied, Overage, Reservation
from drawdown.ledger.wallet import read_rate_card
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, MINUTE_MS
from drawdown.worker.catalog.wallets import orgs_of, wallets_at
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)

LIFE_MS: Final = 60 * MINUTE_MS
QUEUED_LIFE_MS: Final = DAY_MS
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
class Preview:
    """Whether a run would be accepted now, what refuses it, and what would be held, in micro-credits."""

    allowed: bool
    step: str | None
    code: str | None
    reason: str | None
    customer_id: str | None
    amount_micro: int | None
    available_micro: int | None


@dataclass(frozen=True)
class Accepted:
    """A reservation, whether it was there before, and its wallet now."""

    reservation: Reservation
    repeated: bool
    wallet: accounts.Wallet


@dataclass(frozen=True)
class Settled:
    """What an act came to, and the wallet now."""

    drawn: Drawn
    wallet: accounts.Wallet


def preview(connection: sa.Connection, request: Request, now_ms: int) -> Preview:
    """What `accept` would answer now. Nothing is written."""
    customer, amount, available = None, None, None
    try:
        _require_sane(request)
        customer = _payer(connection, request.org_id, now_ms)
        _require_running(connection, request.org_id)
        amount = _priced(connection, request, now_ms)
        available = _available(connection, customer, now_ms)
        if amount > available:
            raise reservations.no_credit(connection, customer, amount)
    except Denied as denied:
        return Preview(False, denied.step, denied.code, str(denied), customer, amount, available)
    return Preview(True, None, None, None, customer, amount, available)


def accept(connection: sa.Connection, key: str, request: Request, by: By) -> Accepted:
    """Hold what a run may cost.

    Errors: Denied with the step that refuses, or `other_content` for a key of another run; UsageError.
    """
    _require_key(key)
    _require_sane(request)
    before = reservations.read(connection, key)
    if before is not None:  # the first answer, whatever has become of the account since
        if before.fingerprint != _fingerprint(request):
            raise reservations.other_content(key)
        return Accepted(before, True, _wallet(connection, before.customer_id))
    customer = _payer(connection, request.org_id, by.now_ms)
    _require_running(connection, request.org_id)
    amount = _priced(connection, request, by.now_ms)
    life_ms = request.for_ms or (QUEUED_LIFE_MS if request.queued else LIFE_MS)
    ask = Ask(
        reservation=key,
        org_id=request.org_id,
        customer_id=customer,
        amount_micro=amount,
        expires_ms=by.now_ms + life_ms,
        overage=request.overage,
        fingerprint=_fingerprint(request),
        estimate=None if request.quantities is None else json.dumps(request.quantities, sort_keys=True),
        project=request.project,
        subject=request.subject,
        action=request.action,
        supplier=request.supplier,
    )
    found, repeated = reservations.reserve(connection, ask, by)
    return Accepted(found, repeated, _moved(connection, customer, by.now_ms))


def draw(connection: sa.Connection, key: str, number: int, cost: Cost, by: By) -> Settled:
    """Charge a part of a run that goes on, under a number of the caller's. Errors: those of `draws.draw`; UnknownId."""
    if not 0 <= number < 2**31:
        raise UsageError("the number of a draw lies between 0 and 2,147,483,647")
    found = _held(connection, key, by.now_ms)
    drawn = draws.draw(connection, found, number, _sane(cost), read_rate_card(connection), by)
    return Settled(drawn, _moved(connection, found.customer_id, by.now_ms))


def extend(connection: sa.Connection, key: str, to_micro: int | None, for_ms: int | None, by: By) -> Accepted:
    """Have a run hold `to_micro` in all, and go on for `for_ms` from now; neither shrinks. It tells that the run lives.

    Errors: Denied `ended`, `no_credit`; UnknownId; UsageError.
    """
    _require_life(for_ms)
    if to_micro is not None and not 0 < to_micro <= MAX_ENTRY_MICRO:
        raise UsageError("a run holds more than nothing, and at most a thousand million credits")
    found = _held(connection, key, by.now_ms)
    if found.state != "held":
        raise Denied("ended", f"{key} is {found.state}: it cannot be extended; accept another run")
    until_ms = by.now_ms + (for_ms or LIFE_MS)
    grown = reservations.grow(connection, found, to_micro or found.amount_micro, until_ms, by.now_ms)
    return Accepted(grown, grown == found, _moved(connection, found.customer_id, by.now_ms))


def settle(connection: sa.Connection, key: str, cost: Cost, by: By) -> Settled:
    """End a run with what it cost in all; what is left of its hold is free. Errors: as `ledger.draws.finish`;
    UnknownId."""
    found = _held(connection, key, by.now_ms)
    drawn = draws.finish(connection, found, "settled", _sane(cost), read_rate_card(connection), by)
    return Settled(drawn, _moved(connection, found.customer_id, by.now_ms))


def release(connection: sa.Connection, key: str, incurred: Cost | None, by: By) -> Settled:
    """Give a run up: what it incurred in all is charged (without it: what was drawn stays), the rest is free. Errors:
    as `ledger.draws.finish`; UnknownId."""
    found = _held(connection, key, by.now_ms)
    cost = None if incurred is None else _sane(incurred)
    drawn = draws.finish(connection, found, "released", cost, read_rate_card(connection), by)
    return Settled(drawn, _moved(connection, found.customer_id, by.now_ms))


def _held(connection: sa.Connection, key: str, now_ms: int) -> Reservation:
    """A run, which nobody else ends meanwhile; expired if it is due."""
    _require_key(key)
    found = reservations.hold(connection, key)
    if found is None:
        ids.require(connection, ids.RUN, key)
        raise UsageError(f"{key} appeared this moment: try again")
    if found.state == "held" and found.expires_ms <= now_ms:
        return reservations.expire_one(connection, found, now_ms)
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


def _priced(connection: sa.Connection, request: Request, now_ms: int) -> int:
    """What is held for a request, by the rate card of now."""
    if request.supplier is not None:
        ids.require(connection, ids.SUPPLIER, request.supplier)
    if request.quantities is None:
        if request.amount_micro is None:
            raise Denied("no_estimate", "a run needs an estimate: give credits, or quantities of features", "plan")
        return request.amount_micro
    card, amount = read_rate_card(connection), 0
    for feature, quantity in request.quantities.items():
        price = card.price(feature, now_ms, quantity)
        if price is None:
            ids.require(connection, ids.FEATURE, feature)
            raise Denied("no_rate", f"{feature} has no rate: `drawdown ledger rate {feature} --micro-credits N`")
        amount += price
    if not 0 < amount <= MAX_ENTRY_MICRO:
        raise UsageError("an estimate comes to more than nothing, and to at most a thousand million credits")
    return amount


def _available(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    """What may still be reserved, once what is due is true."""
    return _wallet(connection, customer_id).available_micro + reservations.due_left(connection, customer_id, now_ms)


def _wallet(connection: sa.Connection, customer_id: str) -> accounts.Wallet:
    return accounts.read_wallets(connection, [customer_id])[customer_id]


def _moved(connection: sa.Connection, customer_id: str, now_ms: int) -> accounts.Wallet:
    """The wallet after it moved. Whom that may halt, or let go on, is asked about again."""
    found = _wallet(connection, customer_id)
    orgs = orgs_of(connection, [customer_id])
    if found.available_micro <= 0 or SQL.run(connection, "any_halted", {"orgs": orgs}).first() is not None:
        mark_for_projection(connection, orgs, now_ms)
    return found


def _fingerprint(request: Request) -> str:
    said = json.dumps({k: v for k, v in asdict(request).items() if k != "supplier" or v}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _require_key(key: str) -> None:
    if not is_clean_id(key):
        raise UsageError("a run's key has 1 to 200 characters, none of them control characters")


def _require_life(for_ms: int | None) -> None:
    if for_ms is not None and not LEAST_LIFE_MS <= for_ms <= MOST_LIFE_MS:
        raise UsageError("a hold stands for a minute at least, and for 30 days at most")


def _require_sane(request: Request) -> None:
    for label in (request.project, request.subject, request.action):
        if label is not None and not is_clean_id(label):
            raise UsageError("a project, subject or action has 1 to 200 characters, none of them control characters")
    _require_life(request.for_ms)
    if request.amount_micro is not None and request.quantities is not None:
        raise UsageError("an estimate is in credits or in quantities of features, not in both")
    if request.amount_micro is not None and not 0 < request.amount_micro <= MAX_ENTRY_MICRO:
        raise UsageError("an estimate is more than nothing, and at most a thousand million credits")
    _require_quantities(request.quantities)


def _sane(cost: Cost) -> Cost:
    if (cost.amount_micro is None) == (cost.quantities is None):
        raise UsageError("a cost is in credits, or in quantities of features: give one of them")
    _require_quantities(cost.quantities)
    return cost


def _require_quantities(quantities: Mapping[str, int] | None) -> None:
    if quantities is None:
        return
    if not 0 < len(quantities) <= MOST_FEATURES:
        raise UsageError(f"give one feature at least, and {MOST_FEATURES} at most")
    if any(not 0 <= quantity < 2**53 for quantity in quantities.values()):
        raise UsageError("a quantity is a whole number from 0 to 2^53")
