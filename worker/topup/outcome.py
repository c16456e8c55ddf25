"""The consequence of a payment service's answer. Pure.

Guarantee: a charge is made again only if each call before it is known to have done nothing: it was proven not to have
been sent; or a look-up found nothing once the service's lag was over, while the service surely knows the charge's id
again (P2), or once no earlier call can be applied any more. It is given up on that last proof alone, or by a person.
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
"""Shortest wait before a charge is tried again."""
MOST_WAIT_MS: Final = 24 * HOUR_MS
"""Longest wait before a charge that was not sent is tried again, whatever its service asks for."""
PERSON_WAIT_MS: Final = HOUR_MS
"""Interval between two look-ups of a charge that a person must decide: the service may show the outcome later."""


@dataclass(frozen=True)
class Loss:
    """History that was lost (R1): calls since `from_ms` may be on no record here; none is later than `at_ms`."""

    from_ms: int
    at_ms: int


@dataclass(frozen=True)
class Calls:
    """The first and the last call that may have done something, by when they were claimed; None: there is none."""

    first_ms: int | None
    last_ms: int | None

    def with_lost(self, loss: Loss | None) -> Calls:
        """Those of a lost history among them."""
        if loss is None:
            return self
        first = loss.from_ms if self.first_ms is None else min(self.first_ms, loss.from_ms)
        return Calls(first, max(self.last_ms or 0, loss.at_ms))


@dataclass(frozen=True)
class End:
    """The end of a top-up.

    `blocks`: why its wallet's top-ups stop until another card is set. `declined`: it counts as a decline.
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
    """Return the end that a call's answer proves or leaves in doubt.

    None for the two answers that depend on the calls before.
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


def of_not_sent(result: NotSent, lookups: int, now_ms: int, *, arrived: bool) -> End:
    """This call did nothing. `arrived`: an earlier one may have done something, and is looked up."""
    if arrived:
        return End("in_doubt", "not_sent", result.reason, now_ms + backoff_ms(lookups + 1))
    if result.retry_at_ms is None:
        return End("given_up", "not_sent", result.reason, now_ms, blocks=result.reason)
    wait_ms = min(max(result.retry_at_ms - now_ms, LEAST_WAIT_MS), MOST_WAIT_MS)
    return End("due", "not_sent", result.reason, now_ms + wait_ms)


def of_not_found(
    calls: Calls, loss: Loss | None, asked_ms: int, now_ms: int, can: PaymentCapabilities, *, refused: bool
) -> End:
    """A look-up that was asked at `asked_ms` found nothing. A call is begun within its lease, or never. `refused`: the
    last call was, as other content: it would be again."""
    known = calls.with_lost(loss)
    if known.first_ms is None or known.last_ms is None:
        return End("due", "not_found", "the service has no such charge", now_ms)
    last_ms = known.last_ms + LEASE_MS
    if asked_ms < last_ms + can.lookup_lag_ms:
        said = "the service has no such charge yet, but an earlier call may not show"
        return End("in_doubt", "not_found", said, last_ms + can.lookup_lag_ms)
    if asked_ms >= last_ms + can.applied_within_ms:
        said = "the service has no such charge, and can no longer apply an earlier call"
        return End("due" if calls.last_ms is None else "given_up", "not_found", said, now_ms)
    knows = can.key_retention_ms is None or now_ms < known.first_ms + safe_retention_ms(can.key_retention_ms)
    if knows and not refused:
        return End("due", "not_found", "the service has no such charge. Drawdown charges again under its id", now_ms)
    said = "the service has no such charge, but its id may be forgotten or taken: Drawdown does not charge again"
    return End("in_doubt", "not_found", said, last_ms + can.applied_within_ms)


def safe_retention_ms(retention_ms: int) -> int:
    """For how long an id is surely known (P2)."""
    return retention_ms - HOUR_MS if retention_ms >= 2 * HOUR_MS else retention_ms // 2
