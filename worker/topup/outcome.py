"""Derive the new state of a top-up from a payment service's response. Pure.

Guarantee: a charge is sent again only if each earlier call provably had no effect. Proof is that the call was not sent,
or that a lookup found no charge after the service's lag. Such a lookup counts while the service still knows the
charge's id (P2), or after the time in which it can apply an earlier call. Drawdown gives up a charge that may have been
sent only after a lookup of the second kind, or if a person records the outcome. It gives up an unsent charge without a
lookup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drawdown.providers.payments.protocol import (
    ChargeResult,
    Declined,
    InDoubt,
    NeedsCustomer,
    NotSent,
    OtherContent,
    Payment,
    PaymentCapabilities,
)
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.engine.effects import backoff_ms

HOUR_MS: Final = 60 * MINUTE_MS
LEAST_WAIT_MS: Final = 1_000
"""Shortest wait before Drawdown retries a charge, in milliseconds."""
MOST_WAIT_MS: Final = 24 * HOUR_MS
"""Longest wait before Drawdown retries an unsent charge, in milliseconds.

If the payment service requests a longer wait, Drawdown shortens it to this time.
"""
PERSON_WAIT_MS: Final = HOUR_MS
"""Milliseconds between two lookups of a charge that a person must decide. A later lookup may still show its outcome."""


@dataclass(frozen=True)
class Loss:
    """Lost history (R1): calls from `from_ms` to `at_ms` may not be recorded here."""

    from_ms: int
    at_ms: int


@dataclass(frozen=True)
class Calls:
    """The claim times of the first and last call that may have had an effect.

    Both are None if no call may have had an effect.
    """

    first_ms: int | None
    last_ms: int | None

    def with_lost(self, loss: Loss | None) -> Calls:
        """Return the calls, including possible calls of a lost history."""
        if loss is None:
            return self
        first = loss.from_ms if self.first_ms is None else min(self.first_ms, loss.from_ms)
        return Calls(first, max(self.last_ms or 0, loss.at_ms))


@dataclass(frozen=True)
class End:
    """The new state of a top-up after a response.

    `answer`, `detail`: the response as a word and as text. `due_at_ms`: the time of the next call, if the top-up is
    open. `blocks`: the reason why the wallet's top-ups stop until a person resumes them (None: they continue).
    `declined`: the response counts as a decline.
    """

    state: str
    answer: str
    detail: str
    due_at_ms: int
    payment_id: str | None = None
    declined: bool = False
    blocks: str | None = None

    @property
    def ended(self) -> bool:
        return self.state not in ("due", "in_doubt")


def of_answer(result: ChargeResult, money_minor: int, currency: str, lookups: int, now_ms: int) -> End | None:
    """Return the state that follows from a call's response alone.

    Returns None for NotSent and NotFound, because the state then also depends on earlier calls.
    """
    soon = now_ms + backoff_ms(lookups + 1)
    match result:
        case Payment(payment_id, amount, in_currency) if (amount, in_currency) == (money_minor, currency):
            return End(
                "credited", "paid", f"paid as {payment_id}: {amount} {in_currency} (minor units)", now_ms, payment_id
            )
        case Payment(payment_id, amount, in_currency):
            said = f"{payment_id} paid {amount} {in_currency}, but Drawdown requested {money_minor} {currency}"
            return End("in_doubt", "other_content", said, now_ms + PERSON_WAIT_MS)
        case Declined(code, reason, retry):
            said = f"{code}: {reason}"
            return End("declined", "declined", said, now_ms, declined=True, blocks=None if retry else said)
        case NeedsCustomer(reason):
            return End("needs_customer", "needs_customer", reason, now_ms, declined=True)
        case OtherContent(reason):
            return End("in_doubt", "other_content", reason, soon if lookups == 0 else now_ms + PERSON_WAIT_MS)
        case InDoubt(reason):
            return End("in_doubt", "in_doubt", reason, soon)
    return None


def of_used_payment(payment_id: str, other: str, now_ms: int) -> End:
    """Return the state after a response with the payment of another top-up.

    That payment already credited the other top-up, because a person recorded it there. So a person must decide.
    """
    said = f"paid as {payment_id}, but {other} was already credited from this payment"
    return End("in_doubt", "other_content", said, now_ms + PERSON_WAIT_MS)


def of_not_sent(result: NotSent, lookups: int, now_ms: int, *, arrived: bool) -> End:
    """Return the state after a call that was not sent.

    `arrived`: an earlier call may have had an effect.
    """
    if arrived:
        return End("in_doubt", "not_sent", result.reason, now_ms + backoff_ms(lookups + 1))
    if result.retry_at_ms is None:
        return End("given_up", "not_sent", result.reason, now_ms, blocks=result.reason)
    wait_ms = min(max(result.retry_at_ms - now_ms, LEAST_WAIT_MS), MOST_WAIT_MS)
    return End("due", "not_sent", result.reason, now_ms + wait_ms)


def of_not_found(
    calls: Calls, loss: Loss | None, asked_ms: int, now_ms: int, can: PaymentCapabilities, *, refused: bool
) -> End:
    """Return the state after a lookup at `asked_ms` that did not find a charge.

    A worker begins a call within its lease, or never. `refused`: the service refused the last call because its id
    belongs to another payment. It would refuse the next call, too.
    """
    known = calls.with_lost(loss)
    if known.first_ms is None or known.last_ms is None:
        return End("due", "not_found", "the service does not have this charge", now_ms)
    last_ms = known.last_ms + LEASE_MS
    if asked_ms < last_ms + can.lookup_lag_ms:
        said = "the service does not have this charge yet, but an earlier call may not show yet"
        return End("in_doubt", "not_found", said, last_ms + can.lookup_lag_ms)
    if asked_ms >= last_ms + can.applied_within_ms:
        said = "the service does not have this charge, and can no longer apply an earlier call"
        return End("due" if calls.last_ms is None else "given_up", "not_found", said, now_ms)
    knows = can.key_retention_ms is None or now_ms < known.first_ms + safe_retention_ms(can.key_retention_ms)
    if knows and not refused:
        return End(
            "due", "not_found", "the service does not have this charge. Drawdown charges again under its id", now_ms
        )
    said = "the service does not show this charge, but may have forgotten its id. Drawdown does not charge again"
    return End("in_doubt", "not_found", said, last_ms + can.applied_within_ms)


def safe_retention_ms(retention_ms: int) -> int:
    """Return the time for which a service surely knows an id, in milliseconds (P2)."""
    return retention_ms - HOUR_MS if retention_ms >= 2 * HOUR_MS else retention_ms // 2
