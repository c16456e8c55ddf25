"""What an outcome means for a push."""

from __future__ import annotations

import pytest

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
from drawdown.worker.breaker import OPEN_AFTER, OPEN_FOR_MS, Breaker
from drawdown.worker.decide import HOUR_MS, Overrides, backoff_ms, safe_retention_ms, settle, verdict

NOW = 1_000_000
LEDGER = Capabilities(batch_size=1, key_retention_ms=None, duplicate_proves_delivery=True, lookup=True)
CLAIMS = Capabilities(batch_size=1, key_retention_ms=24 * HOUR_MS, duplicate_proves_delivery=False, lookup=True)
BLIND = Capabilities(batch_size=1, key_retention_ms=24 * HOUR_MS, duplicate_proves_delivery=True, lookup=False)


@pytest.mark.parametrize(
    ("outcome", "attempt", "capabilities", "state"),
    [
        (Accepted(), 1, LEDGER, "accepted"),
        (Duplicate(), 2, LEDGER, "accepted"),
        (Duplicate(), 1, LEDGER, "in_doubt"),  # R1: we never sent it
        (Duplicate(), 2, CLAIMS, "queued"),  # P3: a claim, not a proof
        (Queued(NOW + 5), 1, CLAIMS, "queued"),
        (RetryAt(NOW + 5, "429"), 1, LEDGER, "due"),
        (Rejected("no"), 1, LEDGER, "rejected"),
        (Unknown("cut"), 1, LEDGER, "due"),
        (Unknown("cut"), 1, CLAIMS, "queued"),
        (Unknown("cut"), 1, BLIND, "due"),
    ],
)
def test_each_outcome_has_one_meaning(outcome: Outcome, attempt: int, capabilities: Capabilities, state: str) -> None:
    assert settle(outcome, attempt, NOW, capabilities).state == state


def test_what_waits_is_due_later_and_never_at_once() -> None:
    assert settle(RetryAt(NOW - 50, "later"), 1, NOW, LEDGER).due_at_ms > NOW
    assert settle(Unknown("cut"), 3, NOW, LEDGER).due_at_ms == NOW + backoff_ms(3)


def test_waiting_times_double_up_to_a_bound() -> None:
    waits = [backoff_ms(attempt) for attempt in range(1, 40)]
    assert waits[:3] == [5_000, 10_000, 20_000]
    assert max(waits) == waits[-1] == 900_000
    assert waits == sorted(waits)


def test_a_key_is_trusted_an_hour_less_than_it_is_kept_or_half_of_a_short_time() -> None:
    def kept(ms: int | None) -> int | None:
        return safe_retention_ms(Capabilities(1, ms, duplicate_proves_delivery=True, lookup=True))

    assert kept(None) is None
    assert kept(24 * HOUR_MS) == 23 * HOUR_MS
    assert kept(HOUR_MS) == HOUR_MS // 2
    assert kept(2 * HOUR_MS) == HOUR_MS


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_call_try() -> None:
    breaker = Breaker()
    for _ in range(OPEN_AFTER - 1):
        breaker.note(failed=True, now_ms=NOW)
    breaker.note(failed=False, now_ms=NOW)
    for _ in range(OPEN_AFTER):
        assert breaker.allows(NOW)
        breaker.note(failed=True, now_ms=NOW)
    assert not breaker.allows(NOW + OPEN_FOR_MS - 1)
    assert breaker.allows(NOW + OPEN_FOR_MS)


@pytest.mark.parametrize(
    ("balance", "overrides", "halted", "reason"),
    [
        (1, Overrides(), False, None),
        (0, Overrides(), True, "credits_exhausted"),
        (-5, Overrides(), True, "credits_exhausted"),
        (None, Overrides(), False, None),
        (100, Overrides(operator_halt=True), True, "operator"),
        (100, Overrides(operator_halt=True, halted=False), True, "operator"),
        (-5, Overrides(halted=False), False, None),
        (-5, Overrides(halted=False, until_ms=NOW + 1), False, None),
        (-5, Overrides(halted=False, until_ms=NOW), True, "credits_exhausted"),
    ],
)
def test_the_verdict(balance: int | None, overrides: Overrides, halted: bool, reason: str | None) -> None:
    found = verdict(balance, 3, overrides, NOW)
    assert (found.is_halted, found.reason, found.max_concurrent) == (halted, reason, 3)


def test_an_override_of_the_limit_wins_while_it_lasts() -> None:
    overrides = Overrides(max_concurrent=9, until_ms=NOW + 1)
    assert verdict(1, 3, overrides, NOW).max_concurrent == 9
    assert verdict(1, 3, overrides, NOW + 1).max_concurrent == 3
