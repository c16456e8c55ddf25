"""Run the queue *fill*, which tops up low wallets.

The queue charges cards, settles the charges, and looks up charges in doubt.

Guarantee: claim and attempt are committed before Drawdown sends the first byte (P1). After a charge without a response,
Drawdown looks the charge up before it charges again. If a step dies, the next step continues from the stored row. A
payment service that hangs or is unreachable delays only its own wallets, and does not count as a decline. While history
is in doubt (R1), Drawdown does not charge cards. Each transaction checks that history is not in doubt.

A top-up begins whenever the credit is at or below the threshold, not only when the credit falls to it. It is one charge
for the whole gap. A wallet has one open top-up at a time, which an index of the table enforces. Its id,
`topup:{wallet}:{episode}`, is the payment's idempotency key. The id does not contain a quantity or an incarnation (P6).
If a restored database counts an episode again, the service already knows the id, and the lookup before the charge
reports the outcome. A worker claims a charge only if the wallet is still low, its terms are live and are still the
terms of the charge, and top-ups are not stopped. In addition, earlier calls must provably not have charged the card.

One transaction records a payment and credits it, with the top-up's id as the key of the grant. This transaction also
requests a refresh of the organisation's verdict, which resumes a halted customer who paid. A response that proves an
outcome is recorded even if the claim has expired. Any other response is recorded only by the claim's worker. A payment
credits one top-up. If a person already recorded the payment for another top-up, the charge stays in doubt until a
person decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.ledger import wallet
from drawdown.ledger.due_changes import mature
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.providers.payments.protocol import Charge, ChargeResult, InDoubt, NotFound, NotSent, PaymentCapabilities
from drawdown.schema.messages import TOPUP_CREDITED, TOPUP_FAILED, Message, amount, tell
from drawdown.schema.sql import queries
from drawdown.schema.text import MAX_ERROR_CHARS, clean, in_short
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.catalog.wallets import orgs_of
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import ChargeMoney, LookUpMoney, Over, RunTogether, SaveWitness, Steps, Transaction
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import count_sends, require_same
from drawdown.worker.topup.outcome import (
    HOUR_MS,
    Calls,
    End,
    Loss,
    of_answer,
    of_not_found,
    of_not_sent,
    of_used_payment,
)
from drawdown.worker.verdict.holds import shrink_of
from drawdown.worker.verdict.refresh_requests import mark_for_projection

log = structlog.get_logger()

SQL = queries(__file__)

FILLING = 7
"""Eighths of a round's time, after which Drawdown does not begin further charges."""


@dataclass
class Filled:
    """The numbers of top-ups that one round changed, by effect, and the failures.

    `looked_up`: the number of lookups. The other numbers count top-ups. `failures`: the texts of failed calls.
    """

    begun: int = 0
    shadow: int = 0
    charged: int = 0
    looked_up: int = 0
    credited: int = 0
    declined: int = 0
    given_up: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, settled: Sequence[Settled]) -> None:
        for one in settled:
            if one.changed:
                self.credited += one.end.state == "credited"
                self.declined += one.end.declined
                self.given_up += one.end.state == "given_up"
                log.info(
                    "topup_settled",
                    topup=one.topup.charge.charge_id,
                    state=one.end.state,
                    answer=one.end.answer,
                    said=one.end.detail,
                )


ALL: Final = ""
"""The value of `only` for all wallets."""


def fill(context: Context, only: str = ALL) -> Steps[Filled]:
    """Begin, charge and look up the top-ups of all wallets, or of one wallet.

    `only`: the one wallet (ALL: all wallets). Without a payment service, this function does nothing.
    """
    done = Filled()
    if not context.payments or context.out_of_time(FILLING):
        return done
    ready = sorted(set(context.payments) - set(context.dormant_payments))
    now = context.clock.now_ms()
    work = partial(begin, ready=ready, now=now, witness=context.witness, only=only)
    begun: Begun = yield Transaction("topup_begin", work)
    done.begun, done.shadow = begun.live, begun.shadow
    lanes = [_at(context, service, only, done) for service in ready if service in begun.due_at]
    if lanes:
        for result in (yield RunTogether(lanes)):
            if isinstance(result, Exception):
                raise result
    return done


def _at(context: Context, service: str, only: str, done: Filled) -> Steps[None]:
    """Handle a service's charges. Charges in doubt come first.

    If a lookup shows that a charge failed, the same round can then charge the wallet's gap again.
    """
    for one in (_look_up, _charge):
        while not context.out_of_time(FILLING) and context.paying(service).allows(context.clock.now_ms()):
            if not (yield from one(context, service, only, done)):
                break


def _asks(context: Context, service: str, only: str) -> Asks:
    now = context.clock.now_ms()
    return Asks(service, context.new_claim(), now, context.payments[service], context.witness, only)


def _charge(context: Context, service: str, only: str, done: Filled) -> Steps[bool]:
    """Claim, send and settle some charges. Return False if there were no charges."""
    asks = _asks(context, service, only)
    claim: Claim = yield Transaction("topup_claim", partial(claim_charges, asks=asks))
    if not claim.topups:
        return False
    if claim.witness is not None:
        context.witness = claim.witness
        yield SaveWitness(claim.witness)  # R1: the local checkpoint counts possible charges outside the database
    charges = [one.charge for one in claim.topups]
    answers = yield from _answers(context, ChargeMoney(service, charges, _over(context, asks)))
    now = context.clock.now_ms()
    ends = [(found, end_of_charge(found, answer, now)) for found, answer in zip(claim.topups, answers, strict=True)]
    work = partial(settle, ends=ends, claim=asks.claim, now=now, witness=context.witness)
    settled: list[Settled] = yield Transaction("topup_settle", work)
    done.charged += len(answers)
    done.note(settled)
    return True


def _look_up(context: Context, service: str, only: str, done: Filled) -> Steps[bool]:
    """Claim, look up and settle some charges in doubt.

    Return False if there were no charges in doubt.
    """
    asks = _asks(context, service, only)
    claim: Claim = yield Transaction("topup_claim_lookups", partial(claim_lookups, asks=asks))
    if not claim.topups:
        return False
    charges = [one.charge for one in claim.topups]
    answers = yield from _answers(context, LookUpMoney(service, charges, _over(context, asks)))
    now, can = context.clock.now_ms(), context.payments[service]
    ends = [
        (found, end_of_lookup(found, answer, asks.now, now, can, claim.loss))
        for found, answer in zip(claim.topups, answers, strict=True)
    ]
    work = partial(settle, ends=ends, claim=asks.claim, now=now, witness=context.witness, asked_ms=asks.now)
    settled: list[Settled] = yield Transaction("topup_settle_lookups", work)
    done.looked_up += len(answers)
    done.note(settled)
    return True


def _over(context: Context, asks: Asks) -> Over:
    return partial(_is_over, context, asks.now + LEASE_MS)


def _is_over(context: Context, lease_end_ms: int) -> bool:
    """Return True if the time or the lease has ended.

    Each call is made only after this check (P1).
    """
    return context.out_of_time(FILLING) or context.clock.now_ms() >= lease_end_ms


def _is_outage(answer: ChargeResult) -> bool:
    """Return True if an outage of the service may have caused the result.

    A customer's card does not cause such a result.
    """
    return isinstance(answer, InDoubt) or (isinstance(answer, NotSent) and answer.retry_at_ms is not None)


def _answers(context: Context, asking: ChargeMoney | LookUpMoney) -> Steps[Sequence[ChargeResult]]:
    try:
        answers: Sequence[ChargeResult] = yield asking
        assert len(answers) == len(asking.charges), f"answers: {len(answers)}, charges: {len(asking.charges)}"
    except Exception as error:  # a response that breaks the contract does not prove an outcome
        log.exception("payment_service_failed", service=asking.service)
        answers = [InDoubt(in_short(error))] * len(asking.charges)
    failed = all(_is_outage(answer) for answer in answers)
    context.paying(asking.service).note(failed=failed, now_ms=context.clock.now_ms())
    return answers


CHARGES_AT_ONCE: Final = 16
"""Charges that one claim sends.

If the process dies, Drawdown must look up each of them.
"""
LOOKUPS_AT_ONCE: Final = 16
"""Charges in doubt that one claim looks up."""
PROVEN_MS: Final = 10 * MINUTE_MS
"""Milliseconds for which a lookup that found no charge permits a new charge."""
UNWANTED_AT_ONCE: Final = 200
"""Unwanted top-ups that one claim handles."""


@dataclass(frozen=True)
class Claim:
    """The top-ups of one claim, with the lost history and a checkpoint.

    `loss`: the lost history (None: the history is complete). `witness`: the local checkpoint that Drawdown saves before
    it sends a charge (None: it does not save a checkpoint).
    """

    topups: Sequence[Topup]
    loss: Loss | None
    witness: Witness | None


@dataclass(frozen=True)
class Asks:
    """The parameters of a claim of top-ups.

    `now`: the time in milliseconds. `claim`: the name of the claim. `can`: the capabilities of the service. `only`: one
    wallet, or all wallets.
    """

    service: str
    claim: str
    now: int
    can: PaymentCapabilities
    witness: Witness | None
    only: str = ALL


def claim_charges(connection: sa.Connection, *, asks: Asks) -> Claim:
    """Claim due and wanted charges, and count them as sends (R1).

    If an unwanted charge was never sent, this call gives up its top-up. If the charge may have been sent, Drawdown
    looks it up until its outcome is known.
    """
    require_same(connection, asks.witness)
    lock_switch(connection, shared=True)
    loss = read_loss(connection)
    values = _values(asks, loss)
    _leave_unwanted(connection, asks, values, loss)
    claimed = SQL.run(connection, "claim", {**values, "at_most": CHARGES_AT_ONCE}).rowcount
    if not claimed:
        return Claim([], loss, None)
    recorded = SQL.run(connection, "begin_attempts", values).rowcount
    assert recorded == claimed, "every claimed charge has its attempt on record before it is made"
    topups = [_topup(row, loss, asks) for row in SQL.run(connection, "claimed", values)]
    return Claim(topups, loss, count_sends(connection, claimed, asks.witness))


def claim_lookups(connection: sa.Connection, *, asks: Asks) -> Claim:
    """Claim charges that a lookup must decide.

    Such a charge is in doubt, was never settled, or may have been sent by a lost history (R1).
    """
    require_same(connection, asks.witness)
    loss = read_loss(connection)
    values = _values(asks, loss)
    if not SQL.run(connection, "claim_lookups", {**values, "at_most": LOOKUPS_AT_ONCE}).rowcount:
        return Claim([], loss, None)
    return Claim([_topup(row, loss, asks) for row in SQL.run(connection, "claimed", values)], loss, None)


def _values(asks: Asks, loss: Loss | None) -> dict[str, object]:
    return {
        "service": asks.service,
        "claim_owner": asks.claim,
        "now_ms": asks.now,
        "lease_end_ms": asks.now + LEASE_MS,
        "only": asks.only,
        "lost": int(loss is not None),
        "proven_ms": max(asks.now - PROVEN_MS, 0 if loss is None else loss.at_ms),
    }


def _leave_unwanted(connection: sa.Connection, asks: Asks, values: dict[str, object], loss: Loss | None) -> None:
    gone_ms = LEASE_MS + asks.can.applied_within_ms
    lost_ms = 0 if loss is None else loss.at_ms
    for row in SQL.run(connection, "unwanted", {**values, "at_most": UNWANTED_AT_ONCE}).all():
        if not row.arrived and (loss is None or row.asked_ms >= lost_ms + gone_ms):
            SQL.run(connection, "give_up", {"topup": row.topup, "now_ms": asks.now})
        else:
            later_ms = max(int(row.last_ms or 0), lost_ms) + gone_ms
            SQL.run(connection, "doubt", {"topup": row.topup, "due_at_ms": later_ms})


def leave_open(connection: sa.Connection, customer_id: str, now: int) -> str | None:
    """Give up a wallet's open top-up if its charge was never sent.

    If the charge may have been sent, Drawdown looks it up until its outcome is known, and this call returns the top-up.
    Otherwise it returns None.

    Call it with the wallet's terms locked, because terms are locked before top-ups.
    """
    row = SQL.run(connection, "open_of", {"customer_id": customer_id}).one_or_none()
    if row is None:
        return None
    topup = str(row.topup)
    if row.state == "due":
        if not row.arrived and read_loss(connection) is None:
            SQL.run(connection, "give_up", {"topup": topup, "now_ms": now})
            return None
        SQL.run(connection, "doubt", {"topup": topup, "due_at_ms": now})
    return topup


def lock_switch(connection: sa.Connection, *, shared: bool = False) -> None:
    """Lock the kill switch, so that claims and changes of the switch do not overlap.

    Claims of charges share the lock, and a change of the switch takes the lock alone. SQLite has one writer at a time,
    so it does not need the lock.
    """
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "share_switch" if shared else "hold_switch")


def count_in_flight(connection: sa.Connection) -> int:
    """Return the number of top-ups that may still be paid and credited.

    If the transaction has stopped all top-ups, Drawdown charges no others until the stop is undone.
    """
    return int(SQL.run(connection, "may_be_paid").scalar_one())


def _topup(row: sa.Row[Any], loss: Loss | None, asks: Asks) -> Topup:
    charge = Charge(
        row.topup, row.service_customer, row.money_minor, row.currency, description(row.credits_micro), row.begun_ms
    )
    may_be_applied = loss is not None and asks.now < loss.at_ms + LEASE_MS + asks.can.applied_within_ms
    return Topup(
        charge,
        row.customer_id,
        row.credits_micro,
        row.attempts,
        row.lookups,
        Calls(row.first_ms, row.last_ms),
        arrived_before=bool(row.others) or may_be_applied,
        refused=row.answer == "other_content",
    )


MOST_DECLINES: Final = 3
"""Consecutive declines of one wallet's card after which its top-ups stop."""
WAITS_MS: Final = (HOUR_MS, DAY_MS)
"""Waits after the first and the second consecutive decline of a card, in milliseconds."""
WHERE: Final = {
    "credited": "if_not_credited",
    "declined": "if_open",
    "needs_customer": "if_open",
}
"""The conditions under which a response that proves an outcome is recorded, by state.

Such a response is recorded even without the claim.
"""


@dataclass(frozen=True)
class Settled:
    """A top-up and its new state. `changed`: this call recorded the state."""

    topup: Topup
    end: End
    changed: bool


def end_of_charge(found: Topup, result: ChargeResult, now_ms: int) -> End:
    """Return the new state of a top-up from the response to its charge."""
    if isinstance(result, NotSent):
        return of_not_sent(result, found.lookups, now_ms, arrived=found.arrived_before)
    if isinstance(result, NotFound):
        # NotFound is not a valid response to a charge.
        result = InDoubt("the service answered a charge as if it were a lookup")
    end = of_answer(result, found.charge.amount, found.charge.currency, found.lookups, now_ms)
    assert end is not None
    return end


def end_of_lookup(
    found: Topup, result: ChargeResult, asked_ms: int, now_ms: int, can: PaymentCapabilities, loss: Loss | None
) -> End:
    """Return the new state of a top-up from the response to its lookup.

    If the lookup was not sent, the result does not prove an outcome.
    """
    if isinstance(result, NotFound):
        return of_not_found(found.calls, loss, asked_ms, now_ms, can, refused=found.refused)
    if isinstance(result, NotSent):
        result = InDoubt(result.reason)
    end = of_answer(result, found.charge.amount, found.charge.currency, found.lookups, now_ms)
    assert end is not None
    return end


def settle(
    connection: sa.Connection,
    *,
    ends: Sequence[tuple[Topup, End]],
    claim: str,
    now: int,
    witness: Witness | None,
    asked_ms: int | None = None,
) -> list[Settled]:
    """Record the new states of claimed top-ups.

    `asked_ms`: the time of the lookup (None: the states follow from charges).
    """
    require_same(connection, witness)
    customers = sorted({found.customer_id for found, _ in ends})
    SQL.run(connection, "hold_terms", {"customers": customers}).all()
    done = []
    for found, end in sorted(ends, key=lambda one: one[0].charge.charge_id):
        if asked_ms is None:
            _finish_attempt(connection, found, end, now)
        one = _record(connection, found, end, claim, now, asked_ms)
        if one.changed:
            _follow(connection, found, one.end, now)
        done.append(one)
    credited = sorted({one.topup.customer_id for one in done if one.changed and one.end.state == "credited"})
    mark_for_projection(connection, orgs_of(connection, credited), now)
    ended = [one.topup.charge.charge_id for one in done if one.changed and one.end.ended]
    tell_ends(connection, ended, now)
    return done


def _finish_attempt(connection: sa.Connection, found: Topup, end: End, now: int) -> None:
    values = {"topup": found.charge.charge_id, "attempt": found.attempt, "now_ms": now}
    SQL.run(connection, "finish_attempt", {**values, "answer": end.answer, "said": _evidence(end)})


def _record(connection: sa.Connection, found: Topup, end: End, claim: str, now: int, asked_ms: int | None) -> Settled:
    try:
        with credited_once(connection, found.charge.charge_id, end.payment_id):
            return Settled(found, end, _write(connection, found, end, claim, now, asked_ms))
    except PaymentUsed as error:
        end = of_used_payment(error.payment_id, error.other, now)
        return Settled(found, end, _write(connection, found, end, claim, now, asked_ms))


def _write(connection: sa.Connection, found: Topup, end: End, claim: str, now: int, asked_ms: int | None) -> bool:
    values = {
        "topup": found.charge.charge_id,
        "state": end.state,
        "due_at_ms": end.due_at_ms,
        "answer": end.answer,
        "said": _evidence(end),
        "payment_id": end.payment_id,
        "ended": int(end.ended),
        "now_ms": now,
        "claim_owner": claim,
        "asked_ms": asked_ms if end.answer == "not_found" else None,
    }
    where = WHERE.get(end.state, "if_claimed")
    return SQL.run(connection, "settle", values, where=where).first() is not None


def _follow(connection: sa.Connection, found: Topup, end: End, now: int) -> None:
    """Apply a new state of a top-up to the wallet and its terms.

    An outage of the service does not count as a decline.
    """
    wallet_of = {"customer_id": found.customer_id}
    if end.state == "credited":
        credit(connection, found.charge.charge_id, found.customer_id, found.credits_micro, now, end.detail)
        return
    blocks = end.blocks
    if end.declined:
        waits = {"first_ms": now + WAITS_MS[0], "then_ms": now + WAITS_MS[1]}
        declines = int(SQL.run(connection, "note_decline", {**wallet_of, **waits}).scalar_one())
        if blocks is None and declines >= MOST_DECLINES:
            blocks = f"{declines} declines in a row, the last: {end.detail}"
    if blocks is not None:
        SQL.run(connection, "block", {**wallet_of, "now_ms": now, "reason": _brief(blocks)})


class PaymentUsed(Exception):
    """Raised if the payment already credited another top-up of the same service.

    `other`: the credited top-up.
    """

    def __init__(self, payment_id: str, other: str) -> None:
        super().__init__(f"{payment_id} already credited {other}")
        self.payment_id, self.other = payment_id, other


@contextmanager
def credited_once(connection: sa.Connection, topup: str, payment_id: str | None) -> Iterator[None]:
    """Undo the block's statements if the payment already credited another top-up.

    An index of the table detects the conflict, so this is safe while another transaction records the same payment.
    `payment_id` None: the block does not record a payment.

    Errors: PaymentUsed, after which the transaction can continue.
    """
    if payment_id is None:
        yield
        return
    try:
        with connection.begin_nested():
            yield
    except sa.exc.IntegrityError as error:
        values = {"topup": topup, "payment_id": payment_id}
        other = SQL.run(connection, "credited_from", values).scalar_one_or_none()
        if other is None:
            raise
        raise PaymentUsed(payment_id, str(other)) from error


def credit(connection: sa.Connection, topup: str, customer_id: str, credits_micro: int, now: int, said: str) -> None:
    """Credit a wallet with a paid top-up, once, and let its stopped top-ups continue."""
    rearm(connection, customer_id)
    wallet.grant(
        connection,
        customer_id,
        credits_micro,
        key=topup,
        now_ms=now,
        actor="drawdown",
        reason=_brief(said),
    )


def rearm(connection: sa.Connection, customer_id: str) -> None:
    """Let a wallet's stopped top-ups continue."""
    SQL.run(connection, "rearm", {"customer_id": customer_id})


def _evidence(end: End) -> str:
    return clean(end.detail, MAX_EVIDENCE_CHARS)


def _brief(said: str) -> str:
    return clean(said, MAX_ERROR_CHARS)


MAX_EVIDENCE_CHARS: Final = 1_000
"""Most characters of the evidence for a charge's outcome, from the payment service or a person."""
BEGUN_AT_ONCE: Final = 200
"""Wallets for which one round begins a top-up. The next round continues."""
MONTH_MS: Final = 30 * DAY_MS
"""Time over which `max_month` counts top-ups, in milliseconds."""


@dataclass(frozen=True)
class Buy:
    """The size of a purchase in micro-credits and in minor units of money.

    The money is rounded up to a whole unit.
    """

    credits_micro: int
    money_minor: int


@dataclass(frozen=True)
class Begun:
    """The numbers of live and shadow top-ups that one round began.

    `due_at`: the services with due charges.
    """

    live: int = 0
    shadow: int = 0
    due_at: Collection[str] = ()


@dataclass(frozen=True)
class Topup:
    """A top-up that this worker may charge or look up until its lease ends.

    `credits_micro`: the credit that it adds. `attempt`: the number of this attempt. `lookups`: the number of its
    lookups.
    """

    charge: Charge
    customer_id: str
    credits_micro: int
    attempt: int
    lookups: int
    calls: Calls
    arrived_before: bool
    """True if an earlier call may have charged the card."""
    refused: bool
    """True if the last response stated that the id of the charge belongs to another payment."""


def money_of(credits_micro: int, price_minor: int) -> int:
    """Return the price of credits in minor units, rounded up to a whole unit."""
    return -(-credits_micro * price_minor // MICRO)


def is_wanted(connection: sa.Connection, customer_id: str, now_ms: int) -> bool:
    """Return True if a wallet is low and in use, and its live top-ups are not stopped.

    Drawdown then charges the card once the caps and waits allow it.
    """
    return SQL.run(connection, "wants", {"customer_id": customer_id, "now_ms": now_ms}).first() is not None


def gap(terms: Mapping[str, Any], available_micro: int) -> Buy:
    """Return the size of one charge for the whole gap.

    The charge fills the wallet to the level of the terms, or adds the smallest multiple of their amount that lifts the
    credit above the threshold. It does not exceed the largest charge that the terms allow.
    """
    most_micro = min(int(terms["most_minor"]) * MICRO // int(terms["price_minor"]), MAX_ENTRY_MICRO)
    if terms["fill_to_micro"] is not None:
        micro = min(int(terms["fill_to_micro"]) - available_micro, most_micro)
    else:
        each = int(terms["amount_micro"])
        wanted = (int(terms["threshold_micro"]) - available_micro) // each + 1
        micro = each * max(min(wanted, most_micro // each), 1)
    return Buy(micro, money_of(micro, int(terms["price_minor"])))


def description(credits_micro: int) -> str:
    """Return the text of the receipt, such as `12.5 credits`.

    The text is the same at each attempt.
    """
    whole, part = divmod(credits_micro, MICRO)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") + " credits"


def read_loss(connection: sa.Connection) -> Loss | None:
    """Return the span of the database's lost history (R1).

    Returns None if history is complete.
    """
    row = SQL.run(connection, "loss").one()
    return None if row.from_ms is None else Loss(int(row.from_ms), int(row.at_ms))


def begin(
    connection: sa.Connection, *, ready: Collection[str], now: int, witness: Witness | None, only: str = ALL
) -> Begun:
    """Insert a top-up for each low wallet without an open top-up.

    The call does so for at most BEGUN_AT_ONCE wallets, if their caps and waits allow a top-up. It books due changes of
    a wallet before it reads the balance.
    """
    if SQL.run(connection, "any_terms").first() is None:
        return Begun()
    require_same(connection, witness)
    times = {"now_ms": now, "day_ago_ms": now - DAY_MS, "month_ago_ms": now - MONTH_MS}
    values = {**times, "only": only, "ready": sorted(ready)}
    SQL.run(connection, "end_shadows", times)
    low = SQL.run(connection, "candidates", {**values, "at_most": BEGUN_AT_ONCE}).scalars().all()
    live = shadow = 0
    if low:
        _mature(connection, low, now)
        loss = read_loss(connection)
        terms = SQL.run(connection, "wanting", {**values, "customers": low}).mappings().all()
        rows = [_row(dict(one), now, loss) for one in terms]
        new = set(SQL.run(connection, "begin", {"begun": rows}).scalars())
        live = sum(row["topup"] in new and row["state"] == "due" for row in rows)
        shadow = len(new) - live
    due_at = SQL.run(connection, "any_due", {"now_ms": now, "only": only}).scalars().all()
    return Begun(live, shadow, due_at)


def _mature(connection: sa.Connection, customers: Sequence[str], now: int) -> None:
    shrink_of(connection, customers, now)
    due = SQL.run(connection, "with_due", {"customers": customers, "now_ms": now}).scalars().all()
    if due:
        mature(connection, due, now)
        mark_for_projection(connection, orgs_of(connection, due), now)


def _row(terms: Mapping[str, Any], now: int, loss: Loss | None) -> dict[str, object]:
    """Return the row of a new top-up.

    `begun_ms`: the earliest time at which the top-up's id may have been sent. A lost history may have sent the id
    before now (R1).
    """
    buy = gap(terms, int(terms["available_micro"]))
    episode = int(terms["episodes"]) + 1
    same = ("customer_id", "price_minor", "currency", "service", "service_customer", "max_day", "max_month")
    return {
        **{name: terms[name] for name in same},
        "topup": f"topup:{terms['customer_id']}:{episode}",
        "episode": episode,
        "credits_micro": buy.credits_micro,
        "money_minor": buy.money_minor,
        "at_ms": now,
        "begun_ms": now if loss is None else min(now, loss.from_ms),
        "state": "shadow" if terms["mode"] == "shadow" else "due",
        "due_at_ms": now,
    }


def tell_ends(connection: sa.Connection, topups: Sequence[str], now_ms: int) -> None:
    """Queue webhook events about top-ups that just ended.

    An event reports that the top-up was credited, or that it failed without a known charge. If a top-up proves to be
    paid after it was given up, an event about its credit follows.
    """
    if topups:
        values = {"topups": [{"topup": topup} for topup in topups], "now_ms": now_ms}
        tell(connection, [_of_topup(row, now_ms) for row in SQL.run(connection, "ended", values).all()])


def _of_topup(row: sa.Row[Any], now_ms: int) -> Message:
    """Return the webhook event of an ended top-up.

    Its field `blocked` is True if the wallet's top-ups have stopped until a person resumes them.
    """
    data: dict[str, object] = {
        "topup": row.topup,
        **amount("credits", row.credits_micro),
        "money_minor": row.money_minor,
        "currency": row.currency,
        "service": row.service,
    }
    event = TOPUP_CREDITED if row.state == "credited" else TOPUP_FAILED
    if event == TOPUP_CREDITED:
        data["payment_id"] = row.payment_id
    else:
        data |= {"state": row.state, "reason": row.evidence, "blocked": row.blocked_ms is not None}
    return Message(event, f"{event}:{row.topup}", now_ms, data, row.org_id, row.customer_id)
