"""Decide a push's new state and next attempt from an outcome.

This module is pure.

Guarantee: a push is accepted only with proof (P3). A push in doubt never becomes due again. Drawdown sends the same key
again only while the provider is sure to remember it (P2, P5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from drawdown.providers.protocol import (
    HOUR_MS,
    Absent,
    Accepted,
    CannotTell,
    Capabilities,
    Duplicate,
    FoundPush,
    LookupResult,
    Outcome,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    UnitCost,
    Unknown,
)
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS
from drawdown.worker.engine.effects import backoff_ms
from drawdown.worker.engine.fair_queue import NotBegun


@dataclass(frozen=True)
class Settlement:
    """The new state of a push.

    `due_at_ms`: the time of the next attempt or lookup. `outcome`: a word for the outcome of the attempt or lookup.
    `error`: the reason of the outcome (None: without a reason).
    """

    state: str
    due_at_ms: int
    outcome: str
    error: str | None = None
    first_sent_ms: int | None = None
    """The earliest time at which a lost history may have sent its key (R1).

    P2 counts from this time if the push does not have an attempt on record. None: the first attempt does not change.
    """
    never_sent: bool = False
    """True if it is proven that the key never arrived, so that P2 counts from the next attempt."""
    cost: UnitCost | None = None
    """The credits that the provider charged for one base unit.

    None: the provider did not report them.
    """


MOST_RETRY_MS: Final = DAY_MS
"""Longest wait before Drawdown retries a push, in milliseconds.

If a provider requests a longer wait, Drawdown waits for this time.
"""
MAX_ABSENCE_MS: Final = DAY_MS
"""Milliseconds after a send until an absent push is in doubt, if its provider never proves absence."""
CREDIT_WAIT_MS: Final = 5 * MINUTE_MS
"""Milliseconds to wait after a charge failed for lack of credit.

The same wait follows a refund that failed for lack of a balance. Afterwards Drawdown bills the push again once the
provider shows credit (`worker.push.void`). If only a person can settle a rejection, its due time is the time of the
rejection.
"""


def safe_retention_ms(capabilities: Capabilities) -> int | None:
    """Return the milliseconds in which the same key may be sent again (P2).

    They count from the first attempt. None: without a limit.

    They are the provider's retention minus an hour. If the retention is shorter than two hours, they are half of it.
    """
    kept = capabilities.key_retention_ms
    return None if kept is None else kept - min(HOUR_MS, kept // 2)


def settle(
    outcome: Outcome, attempt: int, now_ms: int, capabilities: Capabilities, *, sent_before: bool | None = None
) -> Settlement:
    """Return the settlement of a push after an attempt's outcome.

    `attempt`: the number of the attempt, from 1 on. `sent_before`: True if an earlier attempt may have reached the
    provider; None: any earlier attempt may have reached it.
    """
    match outcome:
        case Accepted(_, cost):
            # An earlier attempt may have been charged at another cost. This response has only the cost of its own
            # attempt.
            alone = not (attempt > 1 if sent_before is None else sent_before)
            return Settlement("accepted", now_ms, "accepted", cost=cost if alone else None)
        case Duplicate():
            return _settle_duplicate(attempt > 1 if sent_before is None else sent_before, now_ms, capabilities)
        case Queued(confirm_at_ms):
            state = "queued" if capabilities.lookup else "in_doubt"
            due_at_ms = min(confirm_at_ms, now_ms + max(_lookups_ms(capabilities), MOST_RETRY_MS))
            return Settlement(state, due_at_ms, "queued", None if capabilities.lookup else NO_LOOKUP)
        case NotBegun(at_ms, reason):
            return Settlement("due", min(max(at_ms, now_ms), now_ms + MOST_RETRY_MS), "retry", reason)
        case RetryAt(at_ms, reason, _, by_person):
            due_at_ms = min(max(at_ms, now_ms + SECOND_MS), now_ms + MOST_RETRY_MS)
            return Settlement("due", due_at_ms, "retry", f"{NEEDS_YOU}{reason}" if by_person else reason)
        case Rejected(reason) if sent_before and capabilities.lookup:
            # An earlier attempt may be the cause of the rejection. The push is looked up, and not sent again.
            return Settlement("queued", _look_up_at(now_ms, capabilities), "rejected", reason)
        case Rejected(reason, until_credit):
            return Settlement("rejected", now_ms + CREDIT_WAIT_MS if until_credit else now_ms, "rejected", reason)
        case Unknown(reason):
            return _settle_unknown(reason, attempt, now_ms, capabilities)


NO_LOOKUP: Final = "the provider queued the push and does not support lookups"


def _settle_duplicate(sent_before: bool, now_ms: int, capabilities: Capabilities) -> Settlement:
    if sent_before and capabilities.duplicate_proves_delivery:
        return Settlement("accepted", now_ms, "duplicate")
    if sent_before:
        return Settlement(
            "queued",
            _look_up_at(now_ms, capabilities),
            "duplicate",
            "the provider has the key, but the charge is not proven. A tick looks it up",
        )
    # This database never sent the key, but the provider knows it. A part of our history may be lost (R1).
    lost = "the provider knows this key, but this database does not have an earlier attempt of the push"
    return Settlement(
        "queued" if capabilities.lookup else "in_doubt", _look_up_at(now_ms, capabilities), "duplicate", lost
    )


def _settle_unknown(reason: str, attempt: int, now_ms: int, capabilities: Capabilities) -> Settlement:
    if capabilities.duplicate_proves_delivery or not capabilities.lookup:
        return Settlement("due", now_ms + backoff_ms(attempt), "unknown", reason)
    return Settlement("queued", _look_up_at(now_ms, capabilities), "unknown", reason)


def applied_within(declared: Mapping[str, Capabilities]) -> dict[str, int]:
    """Return how long after a send Drawdown looks up an absent push, by provider.

    The values are milliseconds. Providers without a lookup are left out.
    """
    return {name: _lookups_ms(can) for name, can in declared.items() if can.lookup}


def _lookups_ms(capabilities: Capabilities) -> int:
    """Return the milliseconds after a send until an absent push is void or in doubt."""
    within_ms = capabilities.applied_within_ms
    return max(MAX_ABSENCE_MS if within_ms is None else within_ms, capabilities.lookup_lag_ms or 0)


def _look_up_at(now_ms: int, capabilities: Capabilities) -> int:
    return now_ms + (capabilities.lookup_lag_ms or 0)


@dataclass(frozen=True)
class LookedUpPush:
    """A push that was looked up, and the known facts about its sends."""

    state: str
    sent_qty: int
    lookups: int
    """The number of its lookups, including this one."""
    last_sent_ms: int
    """The start of the last attempt that may have arrived; otherwise of the first attempt, or the time of the seal.

    After a loss of history, it is at least the end of the loss.
    """
    first_sent_ms: int
    claimed: bool
    """True if the provider reported that it has the key, so that a retry would only repeat that response."""
    may_be_sent: bool = False
    """True if it is unsent in this database, but a lost history may have sent it (R1)."""
    stale: bool = False
    """True if it was sealed before an adoption of its customer and feature, so that it rests on an obsolete carry.
    """
    waits: bool = False
    """True if other pushes of its customer and feature are still unknown, and their outcome may make it stale."""
    arrivals: int = 1
    """The number of its attempts that may have arrived."""
    others: bool = False
    """True if the provider charged later revisions of its window that this database lacks."""


@dataclass(frozen=True)
class Adopt:
    """The decision to adopt the provider's quantity for a push (R1).

    The next seal computes the difference.
    """

    quantity: int
    cost: UnitCost | None = None


@dataclass(frozen=True)
class Void:
    """The decision to void a push that a lookup did not find (P5).

    `evidence`: the proof, in words.
    """

    evidence: str


def after_lookup(
    found: LookupResult, asked: LookedUpPush, now_ms: int, capabilities: Capabilities
) -> Settlement | Adopt | Void:
    """Return the decision about a push after its lookup.

    A push is sent again only if it was never in doubt and the provider still remembers its key.
    """
    match found:
        case FoundPush(quantity, cost) if quantity == asked.sent_qty:
            return Settlement("accepted", now_ms, "found", cost=_cost_of(cost, asked))
        case FoundPush(0) if asked.arrivals > 1:
            return Settlement("in_doubt", now_ms + DAY_MS, "found", UNTRACED)
        case FoundPush(0):
            return Settlement("rejected", now_ms + CREDIT_WAIT_MS, "found", NOT_CHARGED)
        case FoundPush(quantity, cost):
            return Adopt(quantity, _cost_of(cost, asked))
        case Absent():
            return _after_absent(asked, now_ms, capabilities)
        case CannotTell() if asked.sent_qty == 0:
            # The push has 0 units. If the provider charged its key before, reconcile shows the difference.
            return Settlement("carried", now_ms, "cannot_tell")
        case CannotTell(reason):
            return Settlement("in_doubt", now_ms + DAY_MS, "cannot_tell", reason)
        case ReadFailed(reason):
            later = now_ms + backoff_ms(asked.lookups)
            return Settlement(asked.state, later, "not_read", f"the lookup failed: {reason}")


def _cost_of(cost: UnitCost | None, asked: LookedUpPush) -> UnitCost | None:
    """Return the cost to store with an accepted push; None if it is uncertain.

    If several attempts may have arrived, another attempt may have been charged at another cost. If the charge ended
    inside a unit, Drawdown stores the cost nevertheless. Without the cost, the rest of the unit would look lost.
    """
    return cost if asked.arrivals == 1 or isinstance(cost, Fraction) else None


OTHERS_FIRST: Final = "absent. The push waits for other pushes of its customer"
OTHERS: Final = "absent. The push waits for other pushes of its customer, because one balance proves them all"
NOT_CHARGED: Final = "the provider recorded the push, but did not charge it"
UNPROVEN: Final = "absent, but the provider does not limit the time in which it may still apply the push"
# A key has one event. If the provider's store of keys is down, a second send under the key charges without a trace.
UNTRACED: Final = (
    "the provider recorded no charge, but a later attempt may have charged without a trace. "
    "Compare the customer's balance"
)


def _after_absent(asked: LookedUpPush, now_ms: int, capabilities: Capabilities) -> Settlement | Void:
    waited = now_ms - asked.last_sent_ms
    end_ms = asked.last_sent_ms + _lookups_ms(capabilities)
    over = now_ms >= end_ms and capabilities.applied_within_ms is not None
    if asked.stale and over:
        return Void("absent. The push was sealed before the provider's total for this customer and feature was known")
    if asked.stale and now_ms < end_ms:  # the provider may still apply a send of the lost history
        later = min(end_ms, now_ms + backoff_ms(asked.lookups))
        return Settlement(asked.state, later, "absent", "absent so far")
    if asked.stale and asked.sent_qty and not asked.others:  # absence is never final. Its quantity must not be sent
        return Settlement("in_doubt", now_ms + DAY_MS, "absent", UNPROVEN)
    if asked.others and asked.sent_qty == 0:
        return Void("the push did not have a quantity to send, and the provider has later revisions of its window")
    if asked.waits and not asked.others:
        return Settlement(asked.state, now_ms + backoff_ms(asked.lookups), "absent", OTHERS_FIRST)
    if over and asked.may_be_sent and not asked.others and asked.state == "queued":
        if asked.sent_qty == 0:
            return Settlement("carried", now_ms, "absent")
        return Settlement(
            "due", now_ms, "absent", "the lookup found no charge. A tick sends it for the first time", never_sent=True
        )
    if over:
        return Void(f"the lookup found no charge {waited // SECOND_MS} s after the last attempt that may have arrived")
    if waited < (capabilities.lookup_lag_ms or 0):
        return Settlement(asked.state, _look_up_at(asked.last_sent_ms, capabilities), "absent", "absent so far")
    kept = safe_retention_ms(capabilities)
    remembered = kept is None or now_ms - asked.first_sent_ms < kept
    if remembered and not asked.claimed and not asked.others and asked.state == "queued":
        if asked.sent_qty == 0:
            return Settlement("carried", now_ms, "absent")
        first = asked.first_sent_ms if asked.may_be_sent else None
        return Settlement(
            "due", now_ms, "absent", "the lookup found no charge. A tick sends the same bytes again", first
        )
    if now_ms >= end_ms:
        if asked.sent_qty == 0:
            return Settlement("carried", now_ms, "absent")
        return Settlement("in_doubt", now_ms + DAY_MS, "absent", UNPROVEN)
    again = min(now_ms + backoff_ms(asked.lookups), end_ms)
    return Settlement(
        asked.state, max(again, now_ms + SECOND_MS), "absent", "absent so far, but the provider may still apply it"
    )
