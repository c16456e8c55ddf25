"""Decide an organisation's verdict, and the time of the next read.

This module is pure.

The verdict follows from the provider's response, the operator's halt and org override, and the time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS


@dataclass(frozen=True)
class Verdict:
    """The verdict that is copied to the organisation.

    `reason`: the reason of the halt (None: not halted). `max_concurrent`: the most concurrent sandboxes (None:
    unlimited).
    """

    is_halted: bool
    reason: str | None
    max_concurrent: int | None


@dataclass(frozen=True)
class Overrides:
    """The operator's halt and org override of one organisation.

    `halted`, `max_concurrent` None: the provider's verdict counts. `until_ms`: the end of the org override; None: the
    override lasts until it is cleared.
    """

    operator_halt: bool = False
    halted: bool | None = None
    max_concurrent: int | None = None
    until_ms: int | None = None

    def in_force(self, now_ms: int) -> bool:
        return self.until_ms is None or now_ms < self.until_ms


USAGE_LIMIT: Final = "usage_limit"
CREDIT_REASONS: Final = frozenset({"credits_exhausted", "reserved", "estimate", "unreadable", USAGE_LIMIT})
"""Reasons of a halt for lack of credit, or for a usage limit."""


HOLD_MS: Final = 15 * MINUTE_MS
"""Milliseconds after a halt in which a small credit does not resume an organisation (three ticks).

By then, late samples have arrived.
"""


UNREAD_STOP_MS: Final = 15 * MINUTE_MS
"""Milliseconds of failed reads after which Drawdown halts an organisation (three ticks).

The halt applies only if the organisation's plan requires it.
"""


@dataclass(frozen=True)
class Estimate:
    """The credit of a fresh read, minus the use that it does not show.

    Amounts are micro-credits. `may_halt`: True if the estimate may halt an organisation that runs.
    """

    effective_micro: int
    resume_above_micro: int = 0
    halted: bool = False
    """True if the organisation is halted for lack of credit now, so that it needs `resume_above_micro` to resume."""
    may_halt: bool = True


@dataclass(frozen=True)
class Refused:
    """Features that a usage limit of the provider refuses although credit is left.

    `in_use`: features that the organisation uses now. `halted`: True if the organisation is halted for the limit now,
    so that its use has ended.
    """

    features: frozenset[str] = frozenset()
    in_use: frozenset[str] = frozenset()
    halted: bool = False

    @property
    def halts(self) -> bool:
        """Return True if the organisation must be halted or stay halted."""
        return bool(self.features) and (self.halted or not self.features.isdisjoint(self.in_use))


NOTHING_REFUSED: Final = Refused()


def verdict(
    balance_micro: int | None,
    provider_max: int | None,
    overrides: Overrides,
    now_ms: int,
    estimate: Estimate | None = None,
    held_micro: int = 0,
    refused: Refused = NOTHING_REFUSED,
) -> Verdict:
    """Return the verdict after a successful read.

    `balance_micro`: None if unlimited. `held_micro`: the credit that executions have reserved. The operator's halt and
    org override take precedence.
    """
    limit = _limit(provider_max, overrides, now_ms)
    said = _operator(overrides, limit, now_ms)
    if said is not None:
        return said
    if balance_micro is not None and balance_micro <= 0:
        return Verdict(True, "credits_exhausted", limit)
    if refused.halts:
        return Verdict(True, USAGE_LIMIT, limit)
    if balance_micro is None:
        return Verdict(False, None, limit)
    if balance_micro <= held_micro:
        return Verdict(True, "reserved", limit)
    if estimate is not None:
        least = estimate.resume_above_micro if estimate.halted else 0
        if estimate.effective_micro <= least and (estimate.halted or estimate.may_halt):
            return Verdict(True, "estimate", limit)
    return Verdict(False, None, limit)


def unread_verdict(
    present: Verdict,
    overrides: Overrides,
    now_ms: int,
    *,
    policy: str,
    unread_ms: int,
    effective_micro: int | None,
) -> Verdict:
    """Return the verdict while the provider cannot be read.

    Only the operator resumes an organisation, and only the operator or the plan's policy halts it. `effective_micro`:
    the effective balance by the last read; None: unknown or unlimited.
    """
    limit = _limit(present.max_concurrent, overrides, now_ms)
    said = _operator(overrides, limit, now_ms)
    if said is not None:
        return said
    if present.is_halted:
        return present
    if policy == "stop" and unread_ms >= UNREAD_STOP_MS:
        return Verdict(True, "unreadable", present.max_concurrent)
    if policy == "estimate" and effective_micro is not None and effective_micro <= 0:
        return Verdict(True, "estimate", present.max_concurrent)
    return present


def told_verdict(present: Verdict, overrides: Overrides, now_ms: int, *, billed: bool, spent: bool) -> Verdict:
    """Return the verdict after an operator's decision begins or ends.

    The verdict applies until the next read of the provider.

    `billed`: True if a provider bills the organisation. `spent`: True if the provider's last response showed a balance
    of 0 or less. While the organisation is billed, only an operator's decision or a fresh read resumes it. If it is not
    billed, only an operator halts and limits it.
    """
    limit = _limit(present.max_concurrent if billed else None, overrides, now_ms)
    said = _operator(overrides, limit, now_ms)
    if said is not None:
        return said
    if not billed:
        return Verdict(False, None, limit)
    if spent and not present.is_halted:
        return Verdict(True, "credits_exhausted", limit)
    return Verdict(present.is_halted, present.reason, limit)


def _limit(provider_max: int | None, overrides: Overrides, now_ms: int) -> int | None:
    given = overrides.max_concurrent if overrides.in_force(now_ms) else None
    return provider_max if given is None else given


def _operator(overrides: Overrides, limit: int | None, now_ms: int) -> Verdict | None:
    if overrides.operator_halt:
        return Verdict(True, "operator", limit)
    if overrides.in_force(now_ms) and overrides.halted is not None:
        return Verdict(overrides.halted, "operator" if overrides.halted else None, limit)
    return None


FIRST_LOOK_MS: Final = 5 * SECOND_MS
"""Shortest wait before the watch looks at an organisation's credit again, in milliseconds."""


LAST_LOOK_MS: Final = MINUTE_MS
"""Longest wait before the watch looks at an organisation's credit again, in milliseconds.

The use can grow a hundredfold at any time.
"""


LOOKS_TO_ZERO: Final = 4


FURTHEST_MS: Final = 253_402_300_799_999
"""Latest end of credit, the last moment of the year 9999.

A later end counts as unlimited.
"""


def end_ms(effective_micro: int | None, burn_a_minute: int, now_ms: int) -> int | None:
    """Return when an effective balance ends at the present use, in milliseconds.

    None: the balance is unlimited or not in use, or it ends after FURTHEST_MS.
    """
    if effective_micro is None or burn_a_minute <= 0:
        return None
    ends = now_ms + max(effective_micro, 0) * MINUTE_MS // burn_a_minute
    return ends if ends <= FURTHEST_MS else None


def next_look_ms(effective_micro: int | None, burn_a_minute: int, now_ms: int) -> int | None:
    """Return when to look at an organisation's credit again, in milliseconds.

    None: the credit is limited and not in use, so the next look follows its next use.
    """
    if effective_micro is None:  # unlimited, or never read yet
        return now_ms + LAST_LOOK_MS
    if burn_a_minute <= 0:
        return None
    to_zero = max(effective_micro, 0) * MINUTE_MS // burn_a_minute
    return now_ms + max(FIRST_LOOK_MS, min(to_zero // LOOKS_TO_ZERO, LAST_LOOK_MS))


TURN_MS: Final = 60 * MINUTE_MS
"""Interval between two turns of an organisation, in milliseconds.

After an answered push, Drawdown reads the customer again in the next turn at the latest, even if the credit lasts much
longer.
"""
WINDOWS_A_TURN: Final = TURN_MS // WINDOW_MS


def turn_ms(org_id: str, after_ms: int) -> int:
    """Return the time of an organisation's next turn after a given time.

    A turn comes once an hour, at a moment that depends on the id, so that reads are spread evenly.
    """
    moment = zlib.crc32(org_id.encode("utf-8", "surrogatepass")) % TURN_MS
    return after_ms + 1 + (moment - after_ms - 1) % TURN_MS


@dataclass(frozen=True)
class KnownState:
    """The state of an organisation with answered pushes, in micro-credits."""

    org_id: str
    is_halted: bool
    read_ms: int | None
    """When its customer was last read; None: never."""
    unread: bool
    """True if the last read failed, or the balance was never read."""
    balance_micro: int | None
    """The balance by the last read, or by a response since; None: unlimited."""
    unconfirmed_micro: int = 0
    held_micro: int = 0
    low_micro: int | None = None
    """The level at which a notice of low credit is due; None: it is not set, or the notice was sent."""
    runs_out_ms: int | None = None
    """The estimated end of the credit, by the current round of a watch; None: it cannot be estimated."""


@dataclass(frozen=True)
class Remaining:
    """The micro-credits that all responses to an organisation's pushes show.

    `left_micro`: None if unlimited.
    """

    left_micro: int | None
    charged_micro: int
    whole: bool
    """True if this is the whole credit; otherwise other balances may add to it."""
    largest_micro: int | None = None
    """The largest shown balance, if `left_micro` adds up balances; None: it is `left_micro`."""


def ask_at_ms(known: KnownState, remaining: Remaining | None, now_ms: int) -> int:
    """Return when to refresh an organisation with charged pushes (milliseconds).

    The refresh is due immediately if the organisation is halted or unread, or was read before its last turn. The same
    applies if its credit may end soon. Otherwise it is due in the organisation's next turn. `remaining`: None if a
    response did not show the credit left.
    """
    if known.is_halted or known.unread or known.read_ms is None:
        return now_ms
    if _is_near(known, now_ms) if remaining is None else _calls_for_a_read(known, remaining):
        return now_ms
    return max(turn_ms(known.org_id, known.read_ms), now_ms)


def is_limit_near(left: int, charged: int) -> bool:
    """Return True if a usage limit would be reached before the next turn.

    The rate of these pushes decides. `left`: the base units that the limit leaves after them.
    """
    return left <= charged * WINDOWS_A_TURN


def _is_near(known: KnownState, now_ms: int) -> bool:
    """Return True if the estimated end of credit is near.

    Without an estimate, each organisation with limited credit counts as near.
    """
    if known.balance_micro is None:
        return False
    return known.runs_out_ms is None or known.runs_out_ms <= now_ms + TURN_MS


def _calls_for_a_read(known: KnownState, remaining: Remaining) -> bool:
    """Return True if a read is needed now.

    A read is needed if credit would end before the next turn at the rate of these pushes, or has reached the low level.
    A read is also needed if a balance exceeds the stored balance. In that case, the customer has paid, or the stored
    balance follows a limit that responses do not show.
    """
    left = remaining.left_micro
    if left is None:
        return known.balance_micro is not None
    largest = left if remaining.largest_micro is None else remaining.largest_micro
    if remaining.whole if known.balance_micro is None else largest > known.balance_micro:
        return True
    free = left - known.held_micro - max(known.unconfirmed_micro, 0)
    return free <= max(remaining.charged_micro * WINDOWS_A_TURN, known.low_micro or 0, 0)
