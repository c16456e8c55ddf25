"""Decide several changes of executions together, in one transaction.

A change accepts, charges, settles or releases an execution.

Guarantee: this module decides only plain calls. In a plain call, a wallet in this database pays, the execution
continues, and no step refuses. The calls are decided one after another, each with the result that it would have alone.
Any other call raises `Alone` before it writes. Such calls are repeated or refused, or have payers, suppliers,
sandboxes, or balances that a provider keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger import draws, own_keys
from drawdown.ledger import reservations as runs
from drawdown.ledger.accounts import HoldTerms, Wallet
from drawdown.ledger.draws import FINAL, Cost, Drawn, Line
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.grouped import Moved, Moves, Standing
from drawdown.ledger.own_keys import own_name
from drawdown.ledger.rates import Rate, RateCard
from drawdown.ledger.reservations import NO_SANDBOXES, NotTogether, Reservation
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import EMBEDDED, EXEMPT_PROVIDERS
from drawdown.worker.catalog.wallets import orgs_of, wallets_at
from drawdown.worker.executions import request as run_request
from drawdown.worker.executions.actions import ask_of
from drawdown.worker.executions.permission import Asker, Paying, Permit, to_hold
from drawdown.worker.executions.request import USE, Accepted, RequestedExecution, Settled
from drawdown.worker.verdict.effective_balance import unbilled_micro
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)


class Alone(NotTogether):
    """Raised if a call must be decided alone, before it writes. Other calls continue."""


@dataclass(frozen=True)
class Change:
    """A program's change of an execution.

    `kind`: a charge (`draw`) with its `number`, or the end of the execution (`settled` or `released`).

    `org_id`: the organisation to which the API key is bound (None: unbound). A bound key finds the executions of its
    organisation, and changes those that it began.
    """

    key: str
    kind: Literal["draw", "settled", "released"]
    cost: Cost | None
    actor: str
    reason: str
    number: int = 0
    org_id: str | None = None

    @property
    def names(self) -> list[tuple[str, str]]:
        """Return the keys under which the execution may be stored.

        Each key comes with the organisation to which the execution must belong ('': any organisation).
        """
        if self.org_id is None:
            return [(self.key, "")]
        return [(own_name(self.org_id, self.key), self.org_id), (self.key, self.org_id)]

    def by(self, now_ms: int) -> By:
        return By(now_ms, self.actor, self.reason, "http")


@dataclass(frozen=True)
class Facts:
    """The facts about an organisation that requests an execution.

    `standing`: the paying wallet (None: the wallet does not exist). `terms`: the terms of its reservations.
    `is_blocked`: the operator blocked the project or action. `has_other_owner`: another organisation or a pool may own
    the wallet.
    """

    asker: Asker
    standing: Standing | None
    terms: HoldTerms
    is_blocked: bool
    has_other_owner: bool

    def payer(self, connection: sa.Connection) -> Standing:
        """Return the organisation's own wallet, if it may pay. Errors: Alone."""
        asker = self.asker
        may_run = not (self.is_blocked or self.has_other_owner or asker.is_halted or asker.stopped_at_ms is not None)
        here = asker.provider in (None, EMBEDDED, *EXEMPT_PROVIDERS)
        if self.standing is None or not may_run or not (here or asker.provider in wallets_at(connection)):
            raise Alone("the organisation may not run executions, or does not have a wallet here")
        return self.standing


Finish: TypeAlias = Callable[[Mapping[str, Moved]], Any]
"""A function that returns a call's result from the changes of all wallets."""


@dataclass(frozen=True)
class WalletRow:
    """A wallet's row.

    Amounts are in micro-credits. `held_micro`: reserved credit. `over_micro`: the remaining credit of ended lots that
    is not booked yet. `lots_over_ms`: the time before which use can still change `over_micro`. `next_due_ms`: the time
    of the next due change (None: all changes are applied). `has_used`: the wallet may still have to pay for recorded
    usage.
    """

    customer_id: str
    balance_micro: int
    held_micro: int
    overdraft_micro: int
    over_micro: int
    plan: str | None
    next_due_ms: int | None
    lots_over_ms: int | None
    deferred_micro: int
    has_used: bool

    def standing(self, connection: sa.Connection, now_ms: int) -> Standing:
        """Return the wallet with its usage that is not charged yet."""
        used = unbilled_micro(connection, self.customer_id, now_ms) if self.has_used else 0
        amounts = self.held_micro, self.overdraft_micro, self.over_micro, used
        wallet = Wallet(self.balance_micro, self.plan, None, *amounts)
        return Standing(self.customer_id, wallet, self.next_due_ms, self.lots_over_ms, self.deferred_micro)


def wallets_part(customers: Iterable[str], now_ms: int) -> Part:
    """Return the query of these customers' wallets, with rows for `WalletRow`."""
    rows = [{"customer_id": one} for one in sorted(set(customers))]
    return SQL.part("wallets", {"customers": rows, "asking": len(rows), "now_ms": now_ms})


def rates_part() -> Part:
    """Return the query of the whole rate card, with rows for `card_at`."""
    return SQL.part("rates")


def card_at(rows: Sequence[Any], known_ms: int) -> RateCard:
    """Return the rate card as it was known at a moment, from the rows of `rates_part`."""
    known = (row for row in rows if row.at_ms <= known_ms)
    return RateCard(Rate(row.feature, row.start_ms, row.micro_credits, row.per_quantity) for row in known)


def accept(
    connection: sa.Connection, asked: RequestedExecution, facts: Facts, moves: Moves, card: RateCard | None, now_ms: int
) -> Finish:
    """Accept an execution with a new key, and reserve its possible cost.

    Errors: Alone.
    """
    request = asked.request
    if request.payer or request.supplier or request.sandboxes or request.settled_by == "metering":
        raise Alone("the request names a payer, a supplier or sandboxes, or metering settles it")
    try:
        run_request.require_key(asked.key)
        run_request.require_sane(request)
        if not asked.own:
            own_keys.require_open(asked.key)
        if asked.key.startswith(USE):
            raise Alone("the key belongs to a use of the guard")
        standing = facts.payer(connection)
        amount = to_hold(connection, request, Paying(standing.customer_id, facts.terms), now_ms, card)
    except (Refused, UsageError) as error:
        raise Alone(str(error)) from error
    permit = Permit(standing.customer_id, amount, facts.terms)
    made = runs.noted(ask_of(asked.names[0], request, permit, now_ms), asked.by(now_ms))
    wallet = moves.accept(standing, made, facts.terms.most_held_micro)
    if wallet is None:
        raise Alone("the wallet cannot reserve the amount now")
    moves.lasts(made)
    return lambda moved: Accepted(made, False, _shifted(wallet, moved[standing.customer_id]))


def consume(
    standing: Standing, run: run_request.Request, name: str, price: int, moves: Moves, terms: HoldTerms, by: By,
    *, ends: bool,
) -> Wallet | None:  # fmt: skip
    """Accept the execution of a use, and settle it immediately if `ends`.

    Return the wallet after the change. Return None, without a change, if the wallet lacks the credit, has a change due,
    or would exceed its plan's limit of reserved credit.
    """
    permit = Permit(standing.customer_id, terms.held_for(price), terms)
    made = runs.noted(ask_of(name, run, permit, by.now_ms), by)
    wallet = moves.accept(standing, made, terms.most_held_micro)
    if wallet is None:
        return None
    if not ends:
        moves.lasts(made)
        return wallet
    entries, charged, _ = draws.entries_for(made, FINAL, [Line(None, None, price)], by)
    ended = _ended(made, "settled", charged, by)
    moves.ends(made, ended)
    return moves.charge(standing, made, ended, entries)


def change(
    asked: Change, found: Reservation, standing: Standing, moves: Moves, before: Sequence[Line], card: RateCard | None,
    now_ms: int,
) -> Finish:  # fmt: skip
    """Charge or end an execution that this transaction has locked. Errors: Alone.

    `before`: the earlier charges under the same number.
    """
    by = asked.by(now_ms)
    require_plain(found, now_ms)
    if asked.org_id is not None and found.actor != asked.actor:
        raise Alone("another API key began the execution")
    try:
        if asked.kind == "draw":
            lines, number = _drawn(asked, found, before, card), f"d{asked.number}"
        else:
            lines, number = _last(asked, found), FINAL
        entries, charged, off = draws.entries_for(found, number, lines, by)
    except (Refused, UsageError) as error:
        raise Alone(str(error)) from error
    if asked.kind == "draw":
        after = replace(found, drawn_micro=found.drawn_micro + charged)
    else:
        after = _ended(found, asked.kind, charged, by)
    wallet = apply(standing, found, after, entries, moves)
    drawn = Drawn(after, charged, off, repeated=False)
    return lambda moved: Settled(drawn, _shifted(wallet, moved[standing.customer_id]))


def end_of_use(
    found: Reservation, standing: Standing, state: Literal["settled", "released"], price: int, moves: Moves, by: By
) -> int:
    """End the execution of a use, which must not have a charge yet.

    Return the charge in micro-credits. Errors: Alone.
    """
    require_plain(found, by.now_ms)
    if found.drawn_micro or found.overage != "charge":
        raise Alone("the execution of the use was already charged, or its overage is not `charge`")
    lines = [Line(None, None, price)] if price or state == "settled" else []
    entries, charged, _ = draws.entries_for(found, FINAL, lines, by)
    apply(standing, found, _ended(found, state, charged, by), entries, moves)
    return charged


def require_plain(found: Reservation, now_ms: int) -> None:
    """Check that an execution continues, and that only its own wallet is involved.

    It must not have a payer, a supplier or sandboxes. Errors: Alone.
    """
    special = found.payer_number is not None or found.supplier is not None or found.settled_by != "receipt"
    if special or found.hold != "wallet" or found.sandboxes != NO_SANDBOXES:
        raise Alone("the execution has a payer, a supplier or sandboxes, or does not have a wallet here")
    if found.state != "held" or found.expires_ms <= now_ms:
        raise Alone("the execution has ended")


def apply(
    standing: Standing, found: Reservation, after: Reservation, entries: Sequence[dict[str, object]], moves: Moves
) -> Wallet:
    """Change an execution from `found` to `after`.

    Return the wallet. Errors: Alone if the wallet has a change due.
    """
    is_late = standing.lots_over_ms is not None and standing.lots_over_ms > found.accepted_ms
    if moves.wallet(standing) is None or (entries and is_late):
        raise Alone("the wallet has changes that are due")
    moves.change(after)
    return moves.charge(standing, found, after, entries)


def _drawn(asked: Change, found: Reservation, before: Sequence[Line], card: RateCard | None) -> list[Line]:
    cost = run_request.sane_cost(asked.cost or Cost())
    run_request.require_number(asked.number)
    if before:
        raise Alone("the draw was made before")
    return draws.priced(found, cost, card or RateCard(()))


def _last(asked: Change, found: Reservation) -> list[Line]:
    """Return the last charge of an execution: its total cost less the earlier charges.

    Errors: Alone.
    """
    if asked.kind == "released" and asked.cost is None:
        return []
    cost = run_request.sane_cost(asked.cost or Cost())
    if cost.amount_micro is None or found.overage == "cap":
        raise Alone("the cost depends on the draws, or may be written off")
    if not found.drawn_micro <= cost.amount_micro <= MAX_ENTRY_MICRO:
        raise Alone("the cost is below the draws, or above the maximum")
    return [Line(None, None, cost.amount_micro - found.drawn_micro)]


def _ended(found: Reservation, state: Literal["settled", "released"], charged: int, by: By) -> Reservation:
    return replace(
        found,
        state=state,
        drawn_micro=found.drawn_micro + charged,
        ended_ms=by.now_ms,
        ended_by=by.actor,
        ended_reason=by.reason,
    )


def _shifted(wallet: Wallet, moved: Moved) -> Wallet:
    """Correct a wallet's balance by the amounts that earlier calls moved.

    The earlier calls are those of the same transaction.
    """
    return replace(wallet, balance_micro=wallet.balance_micro + moved.shift) if moved.shift else wallet


def tell(connection: sa.Connection, moved: Mapping[str, Moved], now_ms: int) -> None:
    """Request a refresh of the verdicts that these wallets may change.

    A call that is decided alone does the same.
    """
    if not moved:
        return
    rows = [{"customer_id": one, "balance": found.wallet.payable_micro} for one, found in sorted(moved.items())]
    values = {"moved": rows, "asking": len(rows)}
    concerned = {one for one, found in moved.items() if found.may_halt}
    concerned |= set(SQL.run(connection, "verdict_may_change", values).scalars())
    if concerned:
        mark_for_projection(connection, orgs_of(connection, sorted(concerned)), now_ms)
