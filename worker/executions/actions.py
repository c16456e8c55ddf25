"""Preview, accept, charge, extend, settle and release executions on credit.

Guarantee: the steps of permission have one order (`executions.permission`), and an error names the first step that
refuses. Each call is one transaction, with the caller's key as its idempotency key. If the response is lost, the caller
can repeat the call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import accounts, draws, due_changes, own_keys, pools
from drawdown.ledger import reservations as grouped
from drawdown.ledger.draws import Cost
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.rates import read_rate_card
from drawdown.ledger.reservations import NO_SANDBOXES, Ask, Denied, NotTogether, Reservation, Room, State
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError, explain_race
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.units import DAY_MS, MINUTE_MS, as_credits, counted_credits
from drawdown.worker.catalog.wallets import orgs_of
from drawdown.worker.executions import remote as remote_runs
from drawdown.worker.executions import request as run_request
from drawdown.worker.executions.permission import (
    Asker,
    Permit,
    above_cap,
    look_ahead,
    make_room,
    permit,
    permit_together,
    require_room,
    with_unbilled,
)
from drawdown.worker.executions.request import (
    USE,
    Accepted,
    Preview,
    Request,
    RequestedExecution,
    Settled,
    fingerprint,
    require_life,
    require_sane,
)
from drawdown.worker.verdict.effective_balance import unbilled_micro
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)

__all__ = ["Accepted", "Preview", "RequestedExecution", "Settled"]

LIFE_MS: Final = 60 * MINUTE_MS
"""Default duration of a reservation without `queued`, in milliseconds.

An extension has the same default.
"""
QUEUED_LIFE_MS: Final = DAY_MS
"""Default duration of a reservation of a queued execution, in milliseconds."""


def preview(connection: sa.Connection, request: Request, now_ms: int, asker: Asker | None = None) -> Preview:
    """Return the result that `accept` would return now, without a write.

    If a step refuses, the result contains the refusal. `asker`: the requesting organisation, if it was just read (None:
    read it).

    Errors: UnknownId; UsageError.
    """
    found: Permit | None = None
    wallet: accounts.Wallet | None = None
    denied: Denied | None = None
    try:
        require_sane(request)
        found = permit(connection, request, now_ms, asker)
        if found.hold == "wallet":
            wallet = look_ahead(connection, found.customer_id, now_ms)
            require_room(connection, found, wallet, now_ms)
        else:
            elsewhere = remote_runs.standing(connection, request.org_id, now_ms)
            remote_runs.require_room(elsewhere, request.org_id, found.amount_micro)
    except Denied as error:
        denied = error
    available, read_ms = _ahead(connection, request.org_id, found, wallet, now_ms)
    return Preview(
        denied is None,
        None if denied is None else denied.step,
        None if denied is None else denied.code,
        None if denied is None else str(denied),
        None if found is None else found.customer_id,
        None if found is None else found.amount_micro,
        available,
        None if found is None else found.hold,
        read_ms,
    )


def _ahead(
    connection: sa.Connection, org_id: str, found: Permit | None, own: accounts.Wallet | None, now_ms: int
) -> tuple[int | None, int | None]:
    """Return the credit available to an organisation, and the time of its read.

    The credit, in micro-credits, is that of the organisation's `own` wallet (time None), or of a balance that a
    provider keeps. If another payer pays, both are None, because the caller must not see that payer's credit.
    """
    if found is None or found.payer is not None:
        return None, None
    if found.hold == "wallet":
        return None if own is None else own.available_micro, None
    elsewhere = remote_runs.standing(connection, org_id, now_ms)
    wallet = elsewhere.wallet if found.hold == "local" else None
    return None if wallet is None else wallet.available_micro, elsewhere.read_ms


def accept(connection: sa.Connection, key: str, request: Request, by: By, *, of_use: bool = False) -> Accepted:
    """Accept an execution, and reserve the credit that it may cost.

    `of_use` (also in the other functions): True if the guard calls. Other callers cannot accept or end the guard's
    executions.

    Errors: Denied with the step that refuses, or `other_content` for a key of another execution; UnknownId; UsageError.
    DatabaseBusy if the organisation's provider or its kind of balance just changed.
    """
    run_request.require_key(key)
    if not of_use:
        _require_no_use(key)
    require_sane(request)
    before = grouped.read(connection, key)
    if before is not None:  # a repeat skips the checks of the account, because the account may have changed since
        if before.fingerprint != fingerprint(request):
            raise grouped.other_content(key, run_request.differing(before, request))
        return Accepted(before, True, *_read_balance(connection, before, by.now_ms, moved=False))
    found = permit(connection, request, by.now_ms)
    ask = ask_of(key, request, found, by.now_ms)
    if found.hold != "wallet":
        made, repeated = remote_runs.reserve(connection, ask, found.provider, by)
        return Accepted(made, repeated, *_read_balance(connection, made, by.now_ms))
    most = found.terms.most_held_micro
    room = partial(make_room, connection, found.customer_id, found.amount_micro, most, by.now_ms)
    freed = grouped.payers_over(connection, request.org_id, request.named, by.now_ms)
    made, repeated = grouped.reserve(connection, ask, by, most, room)
    if not repeated:
        pools.require_within(connection, made, by.now_ms)
        if freed:
            mark_for_projection(connection, orgs_of(connection, freed), by.now_ms)
    return Accepted(made, repeated, *_read_balance(connection, made, by.now_ms))


def _require_no_use(key: str) -> None:
    if key.startswith(USE):
        raise UsageError(
            f"invalid key {quote_value(key)}: the prefix {USE} is reserved for uses of the guard. Choose another key"
        )


def accept_asked(connection: sa.Connection, asked: RequestedExecution, now_ms: int) -> Accepted:
    """Accept an execution for a program.

    An execution's key belongs to one organisation if the API key is bound to it, or else to all unbound API keys.

    If a bound API key does not find an execution under its own key, the call looks for the organisation's execution
    under the same unbound key. An unbound API key does not find executions under keys of an organisation. Errors: as
    `accept`.
    """
    run_request.require_key(asked.key)
    _require_no_use(asked.key)
    if not asked.own:
        own_keys.require_open(asked.key)
    name, other = asked.names
    if asked.own and grouped.read(connection, name) is None:
        before = grouped.read(connection, other)
        name = other if before is not None and before.org_id == asked.request.org_id else name
    return accept(connection, name, asked.request, asked.by(now_ms))


def accept_together(connection: sa.Connection, asked: Sequence[RequestedExecution], now_ms: int) -> list[Accepted]:
    """Accept several new executions of one organisation together.

    If a request fails, the call does not accept any of them.

    The transaction must not do other work.

    Errors: NotTogether, Denied, UsageError or UnknownId if at least one of the executions must be accepted alone.
    """
    for one in asked:
        run_request.require_key(one.key)
        require_sane(one.request)
        if one.key.startswith(USE):
            raise NotTogether(f"{one.key} must be decided alone")
        if one.request.sandboxes:
            raise NotTogether(f"{one.key} names sandboxes, so it must be decided alone")
        if one.request.payer is not None:
            raise NotTogether("an execution with a payer must be decided alone")
        if not one.own:
            own_keys.require_open(one.key)
    if grouped.SQL.run(connection, "among", {"names": [one.names[1] for one in asked]}).first() is not None:
        raise NotTogether("a key was used before, by another kind of API key")
    permits = permit_together(connection, [one.request for one in asked], now_ms)
    asks = [
        (ask_of(one.names[0], one.request, found, now_ms), one.by(now_ms))
        for one, found in zip(asked, permits, strict=True)
    ]
    customer, most = permits[0].customer_id, permits[0].terms.most_held_micro
    made = grouped.reserve_all(connection, asks, now_ms, Room(most, unbilled_micro(connection, customer, now_ms)))
    wallet = _moved(connection, customer, now_ms)
    return [Accepted(one, False, wallet) for one in made]


def ask_of(key: str, request: Request, found: Permit, now_ms: int) -> Ask:
    """Return the reservation to create for a permitted execution."""
    life_ms = request.for_ms or (QUEUED_LIFE_MS if request.queued else LIFE_MS)
    return Ask(
        reservation=key,
        org_id=request.org_id,
        customer_id=found.customer_id,
        amount_micro=found.amount_micro,
        expires_ms=now_ms + life_ms,
        overage=request.overage,
        fingerprint=fingerprint(request),
        estimate=None if request.quantities is None else json.dumps(request.quantities, sort_keys=True),
        project=request.project,
        subject=request.subject,
        action=request.action,
        supplier=request.supplier,
        settled_by=request.settled_by or "receipt",
        sandboxes=json.dumps(request.named) if request.sandboxes else NO_SANDBOXES,
        payer_number=None if found.payer is None else found.payer.number,
        hold=found.hold,
    )


def draw(connection: sa.Connection, key: str, number: int, cost: Cost, by: By) -> Settled:
    """Charge a part of the cost of an execution.

    `number`: the number of the charge, which the caller chooses. A repeated number does not charge again.

    Errors: as `ledger.draws.draw` or `remote.draw`; Denied `of_a_use` for an execution of the guard; UnknownId.
    """
    run_request.require_number(number)
    found, cost = _hold_execution(connection, key, by.now_ms, of_use=False), run_request.sane_cost(cost)
    if found.hold != "wallet":
        drawn = remote_runs.draw(connection, found, number, cost, by)
    else:
        drawn = draws.draw(connection, found, number, cost, read_rate_card(connection, found.accepted_ms), by)
    return Settled(drawn, *_read_balance(connection, found, by.now_ms))


def extend(
    connection: sa.Connection, key: str, to_micro: int | None, for_ms: int | None, by: By, *, of_use: bool = False
) -> Accepted:
    """Extend an execution to `to_micro` reserved micro-credits in all.

    The reservation then expires `for_ms` from now (None: LIFE_MS). `to_micro` None: the reserved credit does not
    change.

    The call never reduces the reserved credit or the time until expiry. A caller can use it as a heartbeat of the
    execution.

    Errors: Denied `ended`, `of_a_use`, `balance_unknown`, `above_cap`, `no_credit`, `too_much_held`,
    `payer_not_allowed`, `payer_limit`; UnknownId; UsageError.
    """
    require_life(for_ms)
    if to_micro is not None and not 0 < to_micro <= MAX_ENTRY_MICRO:
        raise UsageError(
            f"invalid amount to reserve {as_credits(to_micro)}: expected more than 0, and at most 1,000,000,000 credits"
        )
    unbilled = 0
    before = None if to_micro is None else grouped.read(connection, key)
    if before is not None and to_micro is not None and before.hold == "wallet":
        most = _terms(connection, before).most_held_micro
        unbilled = make_room(connection, before.customer_id, to_micro, most, by.now_ms, before)
    found = _hold_execution(connection, key, by.now_ms, of_use=of_use)
    if found.state != "held":
        then = "Accept another execution"
        if found.state == "expired":
            late = draws.instead(found) if found.hold == "wallet" else remote_runs.instead(found)
            then = f"{late}. Then accept another execution"
        raise Denied("ended", f"{key} is {found.state}, so you cannot extend it. {then}")
    until_ms, to_micro = by.now_ms + (for_ms or LIFE_MS), to_micro or found.amount_micro
    if found.hold != "wallet":
        grown = remote_runs.grow(connection, found, to_micro, until_ms, by.now_ms)
        return Accepted(grown, grown == found, *_read_balance(connection, found, by.now_ms))
    terms = _terms(connection, found)
    if terms.most_hold_micro is not None and to_micro > max(terms.most_hold_micro, found.amount_micro):
        raise above_cap(to_micro, terms.most_hold_micro)
    room = Room(terms.most_held_micro, unbilled)
    grown = grouped.grow(connection, found, to_micro, until_ms, by.now_ms, room)
    if grown.amount_micro > found.amount_micro:
        pools.require_within(connection, grown, by.now_ms)
    return Accepted(grown, grown == found, *_read_balance(connection, found, by.now_ms))


def settle(connection: sa.Connection, key: str, cost: Cost | None, by: By, *, of_use: bool = False) -> Settled:
    """Settle an execution with its total cost, and release its remaining reservation.

    `cost`: None if metering charges for the execution. Errors: as `ledger.draws.finish` or `remote.finish`; UnknownId;
    UsageError. Denied `of_a_use` for an execution of the guard.
    """
    found = _hold_execution(connection, key, by.now_ms, of_use=of_use)
    if cost is None and (found.state, found.settled_by) == ("settled", "receipt"):
        raise UsageError(
            f"{key} is already settled, and was charged {counted_credits(found.drawn_micro)}. To repeat the call, pass "
            "the first cost or quantities"
        )
    said = None if cost is None and found.settled_by == "metering" else run_request.sane_cost(cost or Cost())
    return _finish(connection, found, "settled", said, by)


def release(connection: sa.Connection, key: str, incurred: Cost | None, by: By, *, of_use: bool = False) -> Settled:
    """Charge the incurred cost of an execution, and release its remaining reservation.

    `incurred`: the total cost, earlier charges included (None: do not charge more; earlier charges stay). Errors: as
    `settle`.
    """
    found = _hold_execution(connection, key, by.now_ms, of_use=of_use)
    return _finish(connection, found, "released", None if incurred is None else run_request.sane_cost(incurred), by)


def _finish(connection: sa.Connection, found: Reservation, state: State, cost: Cost | None, by: By) -> Settled:
    if found.hold != "wallet":
        drawn = remote_runs.finish(connection, found, state, cost, by)
    else:
        drawn = draws.finish(connection, found, state, cost, read_rate_card(connection, found.accepted_ms), by)
    return Settled(drawn, *_read_balance(connection, found, by.now_ms, freed_micro=found.left_micro))


def _hold_execution(connection: sa.Connection, key: str, now_ms: int, *, of_use: bool) -> Reservation:
    """Lock and return an execution. If it is past its end, expire it.

    Errors: Denied `of_a_use` for an execution of the guard, which only the guard may end; UnknownId; UsageError.
    """
    run_request.require_key(key)
    if key.startswith(USE) and not of_use and SQL.run(connection, "use_of", {"key": key}).first() is not None:
        text = f"{key} belongs to a use of the guard. Run `drawdown guard settle {key.removeprefix(USE)} QUANTITY`"
        text += f" or `drawdown guard release {key.removeprefix(USE)}`"
        raise Denied("of_a_use", text)
    found = grouped.hold(connection, key)
    if found is None:
        ids.require(connection, ids.RUN, key)
        raise UsageError(explain_race("execution", key))
    if found.state == "held" and found.expires_ms <= now_ms:
        over = grouped.expire_one(connection, found, now_ms)
        _read_balance(connection, found, now_ms, freed_micro=found.left_micro)
        return over
    return found


def _terms(connection: sa.Connection, run: Reservation) -> accounts.HoldTerms:
    """Return the present terms of the wallet that pays for an execution."""
    return accounts.hold_terms(connection, run.customer_id) or accounts.PLAIN


def _wallet(connection: sa.Connection, customer_id: str, now_ms: int) -> accounts.Wallet:
    found = accounts.read_wallets(connection, [customer_id])[customer_id]
    return with_unbilled(connection, customer_id, found, now_ms)


def _moved(connection: sa.Connection, customer_id: str, now_ms: int, freed_micro: int = 0) -> accounts.Wallet:
    """Return the wallet after a change, and refresh verdicts that may change.

    The wallet includes the changes that are due. If the change may halt or resume an organisation, or leave it with a
    low balance, the function requests a refresh of the organisation's verdict. This includes an organisation that
    lacked credit before, because Drawdown may not have recorded its halt yet.

    `freed_micro`: micro-credits that are no longer reserved.
    """
    found = with_unbilled(connection, customer_id, due_changes.look_ahead(connection, customer_id, now_ms), now_ms)
    values = {"customer_id": customer_id, "balance_micro": found.payable_micro, "now_ms": now_ms}
    if found.available_micro <= freed_micro or SQL.run(connection, "verdict_may_change", values).first() is not None:
        mark_for_projection(connection, orgs_of(connection, [customer_id]), now_ms)
    return found


def _read_balance(
    connection: sa.Connection, found: Reservation, now_ms: int, *, moved: bool = True, freed_micro: int = 0
) -> tuple[accounts.Wallet | None, int | None]:
    """Return the wallet of an execution, or the rest of a provider's balance.

    The rest comes with the time of its read. If the credit `moved`, the function requests a refresh of the verdicts
    that may change.
    """
    if found.hold == "wallet":
        customer = found.customer_id
        wallet = _moved(connection, customer, now_ms, freed_micro) if moved else _wallet(connection, customer, now_ms)
        return wallet, None
    if moved:
        elsewhere = remote_runs.moved(connection, found.org_id, now_ms, freed_micro)
    else:
        elsewhere = remote_runs.standing(connection, found.org_id, now_ms)
    return elsewhere.wallet if found.hold == "local" else None, elsewhere.read_ms
