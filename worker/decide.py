"""What an outcome means for a push, and when to try again. Pure.

Guarantee: nothing becomes accepted without proof, nothing in doubt becomes due again, and the same key is sent again
only while the provider is sure to remember it (rules P2, P3, P5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drawdown.providers.protocol import (
    Accepted,
    Capabilities,
    Duplicate,
    Outcome,
    Queued,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.units import MINUTE_MS, SECOND_MS

HOUR_MS: Final = 60 * MINUTE_MS
FIRST_BACKOFF_MS: Final = 5 * SECOND_MS
MAX_BACKOFF_MS: Final = 15 * MINUTE_MS
LOOKUP_LAG_MS: Final = 30 * SECOND_MS


@dataclass(frozen=True)
class Settlement:
    """The new state of a push; `due_at_ms` matters while the state is due or queued."""

    state: str
    due_at_ms: int
    outcome: str
    error: str | None = None


def backoff_ms(attempt: int) -> int:
    """Waiting time after the given attempt (1 is the first): doubles up to a quarter of an hour."""
    return min(FIRST_BACKOFF_MS << min(max(attempt, 1) - 1, 16), MAX_BACKOFF_MS)


def safe_retention_ms(capabilities: Capabilities) -> int | None:
    """How long after the first attempt the same key may be sent again (P2): the retention less an hour, or less half
    of it where it is shorter than two. None: for good."""
    kept = capabilities.key_retention_ms
    return None if kept is None else kept - min(HOUR_MS, kept // 2)


def settle(outcome: Outcome, attempt: int, now_ms: int, capabilities: Capabilities) -> Settlement:
    """What to write for a push whose `attempt` (1 is the first) had this outcome."""
    match outcome:
        case Accepted():
            return Settlement("accepted", now_ms, "accepted")
        case Duplicate():
            return _settle_duplicate(attempt, now_ms, capabilities)
        case Queued(confirm_at_ms):
            return Settlement("queued", confirm_at_ms, "queued")
        case RetryAt(at_ms, reason):
            return Settlement("due", max(at_ms, now_ms + SECOND_MS), "retry", reason)
        case Rejected(reason):
            return Settlement("rejected", now_ms, "rejected", reason)
        case Unknown(reason):
            return _settle_unknown(reason, attempt, now_ms, capabilities)


def _settle_duplicate(attempt: int, now_ms: int, capabilities: Capabilities) -> Settlement:
    if attempt <= 1:
        # We never sent this key, and the provider knows it: our history is not all there is (R1).
        return Settlement(
            "in_doubt", now_ms, "duplicate", "the provider knows this key, but no earlier attempt is known here"
        )
    if capabilities.duplicate_proves_delivery:
        return Settlement("accepted", now_ms, "duplicate")
    return Settlement("queued", now_ms + LOOKUP_LAG_MS, "duplicate", "claimed, not proven: to be looked up")


def _settle_unknown(reason: str, attempt: int, now_ms: int, capabilities: Capabilities) -> Settlement:
    if capabilities.duplicate_proves_delivery or not capabilities.lookup:
        return Settlement("due", now_ms + backoff_ms(attempt), "unknown", reason)
    return Settlement("queued", now_ms + LOOKUP_LAG_MS, "unknown", reason)


@dataclass(frozen=True)
class Verdict:
    """What is copied onto the organisation."""

    is_halted: bool
    reason: str | None
    max_concurrent: int | None


@dataclass(frozen=True)
class Overrides:
    """What the operator said about one organisation; it wins until `until_ms` (None: until cleared)."""

    operator_halt: bool = False
    halted: bool | None = None
    max_concurrent: int | None = None
    until_ms: int | None = None

    def in_force(self, now_ms: int) -> bool:
        return self.until_ms is None or now_ms < self.until_ms


def verdict(balance_micro: int | None, provider_max: int | None, overrides: Overrides, now_ms: int) -> Verdict:
    """The projection of a fresh read; a balance of None is unlimited. The operator's halt and override win."""
    active = overrides.in_force(now_ms)
    limit = overrides.max_concurrent if active and overrides.max_concurrent is not None else provider_max
    if overrides.operator_halt:
        return Verdict(True, "operator", limit)
    if active and overrides.halted is not None:
        return Verdict(overrides.halted, "operator" if overrides.halted else None, limit)
    spent = balance_micro is not None and balance_micro <= 0
    return Verdict(spent, "credits_exhausted" if spent else None, limit)
