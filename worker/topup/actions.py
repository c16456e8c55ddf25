"""Change automatic top-ups for a person.

A person can set terms, stop or start top-ups, resume top-ups after a change of the card, and resolve a charge in doubt.

Guarantee: this module does not charge a card. If the payment service would refuse the charges, or they could not fill a
wallet, Drawdown refuses the terms immediately. Some payment services can fill their customers' balances themselves.
Drawdown first asks such a service, because either the service or Drawdown may fill a wallet, not both. If terms change
or top-ups stop, Drawdown gives up an unsent top-up. To record the outcome of a charge, a person must pass evidence. If
the charge was paid, the same transaction credits it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.providers.payments.protocol import InDoubt, NotSent, PaymentCapabilities
from drawdown.schema import ids
from drawdown.schema.audit import By, in_turn, record
from drawdown.schema.currencies import show_money
from drawdown.schema.declare import FLAG, ID, KEY, ORG, TEXT, Action, Fact, Invocation, Label, Size, Values
from drawdown.schema.errors import Refused, UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value, typed
from drawdown.schema.typed.parsing import show_credits
from drawdown.schema.units import as_credits, counted_credits
from drawdown.worker.catalog.wallets import keeper_of, orgs_of
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import AskWhoFills, Steps
from drawdown.worker.topup.fill import (
    MAX_EVIDENCE_CHARS,
    PaymentUsed,
    count_in_flight,
    credit,
    credited_once,
    leave_open,
    lock_switch,
    money_of,
    rearm,
    tell_ends,
)
from drawdown.worker.topup.lists import show_topup, switched
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)

Mode: TypeAlias = Literal["live", "shadow", "stopped"]
CURRENCY: Final = re.compile(r"[a-z]{3}")
MOST_A_DAY: Final = 100
"""Most top-ups of one wallet in a day that terms may allow."""
MOST_A_MONTH: Final = 1_000
"""Most top-ups of one wallet in 30 days that terms may allow."""
MAX_MINOR: Final = 10**12
"""Largest price, and largest charge, of terms, in minor units of the currency."""
STOPPED: Final = "top-ups of {} are stopped. Run `drawdown topup start {}`"
KEPT: Final = ("at_ms", "actor", "reason", "declines", "wait_until_ms", "blocked_ms", "blocked_reason", "customer_id")


@dataclass(frozen=True)
class Terms:
    """The terms of a wallet's top-ups.

    A top-up begins if the available credit is at or below `threshold_micro`. It adds a multiple of `amount_micro`, or
    fills up to `fill_to_micro`. One of these two fields is None. A top-up is one charge of at most `most_minor` minor
    units. `price_minor`: the price of a credit, in minor units of `currency`. `max_day`, `max_month`: the maximum
    numbers of top-ups in 24 hours and in 30 days, with any outcome. `service_customer`: the customer's id at `service`.
    """

    threshold_micro: int
    amount_micro: int | None
    fill_to_micro: int | None
    price_minor: int
    currency: str
    service: str
    service_customer: str
    most_minor: int
    max_day: int = 3
    max_month: int = 20
    mode: Mode = "live"


@dataclass(frozen=True)
class TermsChange:
    """A wallet's terms after a change, and before it (`was`, None: new terms)."""

    terms: Terms
    was: Terms | None
    blocked_reason: str | None = None
    """The reason why top-ups had stopped before (None: they had not stopped)."""
    open_topup: str | None = None
    """The open top-up that may still be paid on the former terms, and then credited (None: without one)."""


def set_terms(
    connection: sa.Connection, customer_id: str, terms: Terms, can: PaymentCapabilities, by: By, *, new: bool = False
) -> TermsChange:
    """Set the terms of a wallet's top-ups.

    If top-ups had stopped without a person, they continue, because the terms may name a customer with another card. If
    the terms differ from the former terms, give up an unsent top-up.

    Errors: UsageError for invalid terms. Refused if a provider keeps the wallet's balance. Unless `new`, UsageError for
    a change of the currency, or for a currency that the service does not list, and UnknownId for an unknown customer.
    """
    if not is_clean_id(customer_id):
        raise UsageError(
            f"invalid customer id {quote_value(customer_id)}: expected 1 to 200 characters without control characters"
        )
    _require_sane(terms, can)
    ids.require(connection, ids.CUSTOMER, customer_id, new=new)
    _require_own(connection, customer_id, by.now_ms)
    row = _row(connection, customer_id)
    if row is None:  # without a row to lock, another person may set the first terms before this call
        in_turn(connection)
        row = _row(connection, customer_id)
    if not new:
        _require_known_currency(terms, can, None if row is None else str(row["currency"]))
    said = {"customer_id": customer_id, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "set", {**asdict(terms), **said})
    SQL.run(connection, "end_shadows", said)
    was, blocked = _before(row)
    left = None if was in (None, terms) else leave_open(connection, customer_id, by.now_ms)
    record(connection, "topup_set", customer_id, asdict(terms), by)
    return TermsChange(terms, was, blocked, left)


def set_mode(connection: sa.Connection, customer_id: str, mode: Mode, by: By) -> TermsChange:
    """Stop, start or shadow one wallet's top-ups.

    Unless the mode is live, give up an unsent top-up. Drawdown still looks up charges in doubt. Errors: UnknownId.
    """
    row = _require_terms(connection, customer_id)
    terms, blocked = _before(row)
    assert terms is not None
    said = {"customer_id": customer_id, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "set_mode", {**said, "mode": mode})
    SQL.run(connection, "end_shadows", said)
    left = None if mode == "live" else leave_open(connection, customer_id, by.now_ms)
    record(connection, "topup_mode", customer_id, {"mode": mode, "was": terms.mode}, by)
    return TermsChange(replace(terms, mode=mode), terms, blocked, left)


def resume(connection: sa.Connection, customer_id: str, by: By) -> TermsChange:
    """Resume a wallet's top-ups after a change of the card.

    The call deletes the wallet's declines, so the watch or the next tick can fill a low wallet. You can repeat the
    call. A wallet with an open top-up, or with enough credit, does not begin another top-up.

    Errors: UnknownId; Refused if its top-ups are stopped.
    """
    row = _require_terms(connection, customer_id)
    terms, blocked = _before(row)
    assert terms is not None
    if terms.mode == "stopped":
        raise Refused(STOPPED.format(customer_id, typed(customer_id)))
    rearm(connection, customer_id)
    record(connection, "topup_resume", customer_id, {"blocked": blocked}, by)
    return TermsChange(terms, terms, blocked)


def switch(connection: sa.Connection, by: By, *, stopped: bool) -> str | None:
    """Set or end the kill switch for all charges.

    Wait for claims of charges that are not committed yet. Return the actor and reason of the former stop; None if the
    charges were not stopped.
    """
    lock_switch(connection)
    row = SQL.run(connection, "switched").one_or_none()
    values = {"stopped_ms": by.now_ms if stopped else None, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "switch", values)
    record(connection, "topup_stop_all" if stopped else "topup_start_all", "all", {"was": row is not None}, by)
    return None if row is None else f"{row.actor}: {row.reason}"


def resolve(connection: sa.Connection, topup: str, payment_id: str | None, evidence: str, by: By) -> str:
    """Record the outcome of a charge in doubt.

    `payment_id`: the payment, which this call credits (None: the card was not charged). Return the new state. Without a
    payment, Drawdown does not look the charge up again. It credits a later payment only if a call that was under way
    returns it, or if a person records it.

    Errors: UsageError for invalid evidence or an invalid payment id; UnknownId. Refused for a charge that is not in
    doubt, unless it was given up and was paid as `payment_id`. Refused for a payment that already credited another
    top-up.
    """
    if not 0 < len(evidence.strip()) <= MAX_EVIDENCE_CHARS:
        raise UsageError(f"invalid --evidence: expected 1 to {MAX_EVIDENCE_CHARS:,} characters that show the outcome")
    if payment_id is not None and not is_clean_id(payment_id):
        raise UsageError(
            f"invalid payment id {quote_value(payment_id)}: expected 1 to 200 characters without control characters"
        )
    ids.require(connection, ids.TOPUP, topup)
    customer_id = str(SQL.run(connection, "wallet_of", {"topup": topup}).scalar_one())
    _require_terms(connection, customer_id)  # terms are locked before top-ups
    found = SQL.run(connection, "topup", {"topup": topup}).one()
    if found.state != "in_doubt" and not (found.state == "given_up" and payment_id is not None):
        raise Refused(f"cannot resolve {topup}: it is {found.state}, not in doubt. Run `drawdown topup list`")
    state = "given_up" if payment_id is None else "credited"
    answer = f"a person: {'absent' if payment_id is None else 'paid'}"
    values = {"topup": topup, "state": state, "payment_id": payment_id, "answer": answer, "evidence": evidence}
    try:
        with credited_once(connection, topup, payment_id):
            SQL.run(connection, "resolve", {**values, "at_ms": by.now_ms, "was": found.state})
    except PaymentUsed as error:
        raise Refused(
            f"cannot resolve {topup}: {error.other} was already credited from the payment {payment_id}. Run `drawdown "
            f"topup show {typed(error.other)}`"
        ) from error
    if payment_id is not None:
        credit(connection, topup, customer_id, found.credits_micro, by.now_ms, evidence)
        mark_for_projection(connection, orgs_of(connection, [customer_id]), by.now_ms)
    tell_ends(connection, [topup], by.now_ms)
    record(connection, "topup_resolve", topup, {"state": state, "payment_id": payment_id, "evidence": evidence}, by)
    return state


def require_terms(connection: sa.Connection, customer_id: str) -> Terms:
    """Return a wallet's terms. Errors: UnknownId."""
    terms, _ = _before(_require_terms(connection, customer_id))
    assert terms is not None
    return terms


def terms_of(row: sa.RowMapping) -> Terms:
    """Return the terms of a stored row."""
    kept: dict[str, Any] = {name: value for name, value in row.items() if name not in KEPT}
    return Terms(**kept)


def rearm_paid(connection: sa.Connection, customer_id: str) -> None:
    """Resume a wallet's top-ups that stopped by themselves or wait after a decline.

    Call it when a person grants credit under a new key. Call it before the wallet changes, because terms are locked
    before wallets.
    """
    SQL.run(connection, "rearm_paid", {"customer_id": customer_id})


def _row(connection: sa.Connection, customer_id: str) -> sa.RowMapping | None:
    return SQL.run(connection, "terms", {"customer_id": customer_id}).mappings().one_or_none()


def _require_terms(connection: sa.Connection, customer_id: str) -> sa.RowMapping:
    row = _row(connection, customer_id)
    if row is None:
        ids.require(connection, ids.TOPPED_UP, customer_id)
        raise Refused(explain_race("top-up of", customer_id))
    return row


def _before(row: sa.RowMapping | None) -> tuple[Terms | None, str | None]:
    if row is None:
        return None, None
    return terms_of(row), row["blocked_reason"]


def _require_own(connection: sa.Connection, customer_id: str, now_ms: int) -> None:
    """Refuse a wallet if a provider keeps its balance.

    That provider fills the wallet itself. Errors: Refused.
    """
    keeper = keeper_of(connection, customer_id, now_ms)
    if keeper is not None:
        raise Refused(
            f"cannot top up {customer_id}: {keeper} bills this customer, and keeps and fills the balance itself. Set "
            f"up top-ups at {keeper}"
        )


def _require_sane(terms: Terms, can: PaymentCapabilities) -> None:
    if (terms.amount_micro is None) == (terms.fill_to_micro is None):
        raise UsageError("specify either an amount or a level to fill up to, not both")
    if not CURRENCY.fullmatch(terms.currency):
        raise UsageError(
            f"invalid currency {quote_value(terms.currency)}: expected an ISO 4217 code in lower "
            "case, such as usd or eur"
        )
    if not is_clean_id(terms.service_customer):
        raise UsageError(
            f"invalid customer id {quote_value(terms.service_customer)} at the payment service: expected 1 to "
            "200 characters without control characters"
        )
    if not 0 < terms.price_minor <= MAX_MINOR or not 0 < terms.most_minor <= MAX_MINOR:
        raise UsageError(
            f"invalid price {terms.price_minor:,} or largest charge {terms.most_minor:,}: expected 1 to {MAX_MINOR:,} "
            "minor units"
        )
    if not (0 < terms.max_day <= MOST_A_DAY and 0 < terms.max_month <= MOST_A_MONTH):
        raise UsageError(
            f"invalid number of top-ups, {terms.max_day:,} a day and {terms.max_month:,} in 30 days: expected 1 to "
            f"{MOST_A_DAY} a day, and 1 to {MOST_A_MONTH:,} in 30 days"
        )
    if not 0 <= terms.threshold_micro <= MAX_ENTRY_MICRO:
        raise UsageError(f"invalid threshold {as_credits(terms.threshold_micro)}: expected 0 to 1,000,000,000 credits")
    micro = terms.amount_micro
    if terms.fill_to_micro is not None:
        micro = terms.fill_to_micro - terms.threshold_micro
    if micro is None or not 0 < micro <= MAX_ENTRY_MICRO:
        raise UsageError(
            f"invalid top-up of {as_credits(micro or 0)} credits: expected more than 0, and at most 1,000,000,000 "
            "credits. A level to fill up to must exceed the threshold"
        )
    _require_chargeable(terms, micro, can)


def _require_known_currency(terms: Terms, can: PaymentCapabilities, before: str | None) -> None:
    """Refuse a currency that is probably a mistake. Errors: UsageError."""
    if before is not None and terms.currency != before:
        raise UsageError(
            f"the terms so far are in {before}, and Drawdown does not convert prices. To use {terms.currency}, pass "
            "--new"
        )
    if can.least and terms.currency not in can.least:
        there = ", ".join(sorted(can.least))
        text = f"{terms.service} is not known to take {terms.currency}. It takes {there}. To try it anyway, pass --new"
        raise UsageError(text)


def _require_chargeable(terms: Terms, least_micro: int, can: PaymentCapabilities) -> None:
    """Refuse terms with a charge that the service cannot take. Errors: UsageError.

    The smallest charge must not be below the service's minimum, or above the terms' largest charge. The largest charge
    must not exceed the service's maximum.
    """
    money, least = money_of(least_micro, terms.price_minor), can.least.get(terms.currency, 1)
    cost = f"the price of {counted_credits(least_micro)} is {counted(money, 'minor unit')}"
    if money < least:
        raise UsageError(f"{cost}, but {terms.service} takes at least {least}. Pass a larger amount")
    if money > terms.most_minor:
        raise UsageError(f"{cost}, but --most is {terms.most_minor}. Pass a larger --most, or a smaller amount")
    if can.most is not None and terms.most_minor > can.most:
        raise UsageError(
            f"invalid --most {terms.most_minor}: {terms.service} takes at most {can.most} minor units in one charge"
        )


def require_only_one(context: Context, service: str, service_customer: str) -> Steps[InDoubt | None]:
    """Refuse a customer if the payment service fills the customer's balance itself.

    Return None if Drawdown may top up the customer, or if the service is dormant. Return InDoubt if the service does
    not answer. Errors: Refused if the service fills the balance.
    """
    if service in context.dormant_payments:
        return None
    found: NotSent | InDoubt | None = yield AskWhoFills(service, service_customer, context.out_of_time)
    if isinstance(found, NotSent):
        raise Refused(f"cannot charge {service_customer} at {service}: {found.reason}")
    return found


@dataclass(frozen=True)
class TopupStopped:
    """The stop of a wallet's top-ups, or of all top-ups (`customer_id` null).

    `is_stopped`: the top-ups are stopped now. `was`: the wallet's mode before, or the actor and reason of the former
    stop of all top-ups (null: they were not stopped). `blocked`: the reason why the wallet's top-ups had stopped
    without a person (null: they had not, or the call is for all top-ups). `open_topups`: the number of top-ups that may
    still be paid and credited. `open_topup`: the wallet's top-up that may still be paid (null: without one, or the call
    is for all top-ups).
    """

    customer_id: str | None
    is_stopped: bool
    was: str | None
    blocked: str | None
    open_topups: int
    open_topup: str | None


def _stop(
    connection: sa.Connection,
    asked: Invocation,
    customer_id: Annotated[str | None, ORG, "Customer who owns the wallet"] = None,
    *,
    all_: Annotated[bool, FLAG, "Kill switch for the top-ups of all wallets"] = False,
    undo: Annotated[bool, FLAG, "End of the kill switch, for --all"] = False,
) -> TopupStopped:
    if (customer_id is None) != all_:
        raise UsageError("specify either a customer or --all", at="customer_id")
    if customer_id is None:
        was = switch(connection, asked.by, stopped=not undo)
        return TopupStopped(None, not undo, was, None, count_in_flight(connection), None)
    if undo:
        raise UsageError(
            "--undo needs --all. To start the top-ups of one wallet again, run "
            f"`drawdown topup start {typed(customer_id)}`",
            at="undo",
        )
    said = set_mode(connection, customer_id, "stopped", asked.by)
    assert said.was is not None
    left = said.open_topup
    return TopupStopped(customer_id, True, said.was.mode, said.blocked_reason, int(left is not None), left)


def _stopped(done: TopupStopped) -> str:
    if done.customer_id is None:
        before = "not stopped" if done.was is None else f"stopped by {done.was}"
        if not done.is_stopped:
            return f"automatic top-ups continue; before: {before}"
        count = counted(done.open_topups, "charge")
        left = f"; {count} may still be paid and credited. Run `drawdown topup list`" if done.open_topups else ""
        return f"automatic top-ups are stopped; before: {before}{left}"
    left = f"; {in_flight(done.open_topup)}" if done.open_topup else ""
    return f"{done.customer_id}: stopped; before: {done.was}{left}"


def in_flight(topup: str) -> str:
    """Return the text about an open top-up that may have been sent."""
    return f"the charge of {topup} may still be paid and credited. Run `drawdown topup show {typed(topup)}`"


def _facts_of_stop(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    if values["customer_id"] is None:
        found = switched(connection)
        return [Fact("All top-ups", "on" if found is None else f"stopped by {found.actor}: {found.reason}")]
    return facts_of_mode(connection, values["customer_id"])


def facts_of_mode(connection: sa.Connection, customer_id: str) -> Sequence[Fact]:
    """Return the state of a wallet's top-ups. Errors: UnknownId."""
    terms = require_terms(connection, customer_id)
    return [
        Fact("Mode", terms.mode),
        Fact("Threshold, credits", show_credits(terms.threshold_micro)),
        Fact("Charged at", f"{terms.service} as {terms.service_customer}"),
    ]


def _size_of_stop(_connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of a stop or its undo.

    An undo is unbounded, because all wallets may be charged again after it.
    """
    return Size(unbounded=values["undo"])


@dataclass(frozen=True)
class TopupResolved:
    """The recorded outcome of a top-up in doubt."""

    topup: str
    state: str


def _resolve(
    connection: sa.Connection,
    asked: Invocation,
    topup: Annotated[str, KEY, "Top-up, as topup:WALLET:N", Label("Top-up")],
    *,
    evidence: Annotated[str, TEXT, "Evidence of the outcome, kept for good"],
    paid: Annotated[str | None, ID, "Id of the payment at the service; Drawdown credits the payment"] = None,
    absent: Annotated[bool, FLAG, "Confirmation that the service did not and will not charge the card"] = False,
) -> TopupResolved:
    if (paid is None) != absent:
        raise UsageError("specify either --paid PAYMENT or --absent", at="paid")
    return TopupResolved(topup, resolve(connection, topup, paid, evidence, asked.by))


def facts_of_topup(connection: sa.Connection, topup: str) -> Sequence[Fact]:
    """Return the facts of a top-up for a dry run. Errors: UnknownId."""
    found, _ = show_topup(connection, topup, 1)
    return [
        Fact("Wallet", found.customer_id),
        Fact("State", found.state.replace("_", " ")),
        Fact("Credits", show_credits(found.credits_micro)),
        Fact("Money", show_money(found.money_minor, found.currency)),
    ]


def size_of_topup(connection: sa.Connection, topup: str, paid: str | None) -> Size:
    """Return the credit that the wallet gets if the charge was paid."""
    found, _ = show_topup(connection, topup, 1)
    return Size(micro=0 if paid is None else found.credits_micro)


SCOPE: Final = "ledger:write"
ACTIONS: Final = (
    Action(
        "topup stop",
        "Stop top-ups",
        "Stop the automatic top-ups of a wallet, or of all. Drawdown still looks up top-ups in doubt.",
        _stop,
        _stopped,
        path="/v1/topups/stop",
        scope=SCOPE,
        facts=_facts_of_stop,
        size=_size_of_stop,
        place="/console/billing?id={customer_id}",
    ),
    Action(
        "topup resolve",
        "Record outcome of a top-up",
        "Record the outcome of a top-up in doubt. Read the outcome in the payment service's own dashboard. If another "
        "amount was paid, grant it with `drawdown ledger grant CUSTOMER AMOUNT`, then pass --absent. After --absent, "
        "the watch charges a low wallet again.",
        _resolve,
        lambda done: f"{done.topup}: {done.state}",
        path="/v1/topups/{topup}/resolve",
        scope=SCOPE,
        role="admin",
        facts=lambda connection, _asked, values: facts_of_topup(connection, values["topup"]),
        size=lambda connection, _asked, values: size_of_topup(connection, values["topup"], values["paid"]),
    ),
)
