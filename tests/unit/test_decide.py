"""What an outcome means for a push."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

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
    Unknown,
)
from drawdown.schema.units import DAY_MS
from drawdown.worker.engine.breaker import OPEN_AFTER, OPEN_FOR_MS, Breaker
from drawdown.worker.engine.effects import backoff_ms
from drawdown.worker.push.outcome import (
    MAX_ABSENCE_MS,
    MOST_RETRY_MS,
    Adopt,
    LookedUpPush,
    Settlement,
    Void,
    after_lookup,
    safe_retention_ms,
    settle,
)
from drawdown.worker.verdict.rules import Overrides, verdict
from tests.cases import cases

NOW = 1_767_225_600_000
LEDGER = Capabilities(batch_size=1, key_retention_ms=None, duplicate_proves_delivery=True, lookup_lag_ms=30_000)
CLAIMS = Capabilities(key_retention_ms=24 * HOUR_MS, duplicate_proves_delivery=False, lookup_lag_ms=30_000)
BLIND = Capabilities(batch_size=1, key_retention_ms=24 * HOUR_MS, duplicate_proves_delivery=True)


@cases(
    ("outcome", "attempt", "capabilities", "state"),
    [
        (Accepted(), 1, LEDGER, "accepted"),
        (Duplicate(), 2, LEDGER, "accepted"),
        (Duplicate(), 1, LEDGER, "queued"),  # R1: we never sent it, so it is looked up
        (Duplicate(), 1, BLIND, "in_doubt"),
        (Queued(NOW + 5), 1, BLIND, "in_doubt"),
        (Duplicate(), 2, CLAIMS, "queued"),  # P3: a claim, not a proof
        (Queued(NOW + 5), 1, CLAIMS, "queued"),
        (RetryAt(NOW + 5, "429"), 1, LEDGER, "due"),
        (Rejected("no"), 1, LEDGER, "rejected"),
        (Unknown("cut"), 1, LEDGER, "due"),
        (Unknown("cut"), 1, CLAIMS, "queued"),
        (Unknown("cut"), 1, BLIND, "due"),
    ],
)
def test_push_outcome_maps_to_state(outcome: Outcome, attempt: int, capabilities: Capabilities, state: str) -> None:
    assert settle(outcome, attempt, NOW, capabilities).state == state


def test_cost_of_repeated_attempt_is_dropped() -> None:
    """An earlier attempt may have been charged at another cost."""
    told = Accepted(cost=Decimal("0.0004"))
    assert settle(told, 1, NOW, CLAIMS).cost == settle(told, 2, NOW, CLAIMS, sent_before=False).cost == told.cost
    assert settle(told, 2, NOW, CLAIMS).cost is None
    found, later = FoundPush(60, Decimal("0.0004")), NOW + 60_000
    ends = [after_lookup(found, replace(ASKED, arrivals=arrivals), later, CLAIMS) for arrivals in (1, 2)]
    assert [end.cost for end in ends if isinstance(end, Settlement)] == [found.cost, None]
    part = after_lookup(replace(found, quantity=50), replace(ASKED, arrivals=2), later, CLAIMS)
    assert part == Adopt(50, None)


def test_retried_push_is_due_later() -> None:
    assert settle(RetryAt(NOW - 50, "later"), 1, NOW, LEDGER).due_at_ms > NOW
    assert settle(Unknown("cut"), 3, NOW, LEDGER).due_at_ms == NOW + backoff_ms(3)


@cases("outcome", [RetryAt(NOW + 400 * DAY_MS, "later"), Queued(NOW + 400 * DAY_MS)])
def test_provider_retry_time_is_limited_to_a_day(outcome: Outcome) -> None:
    assert settle(outcome, 1, NOW, CLAIMS).due_at_ms == NOW + MOST_RETRY_MS == NOW + DAY_MS


def test_backoff_doubles_up_to_limit() -> None:
    waits = [backoff_ms(attempt) for attempt in range(1, 40)]
    assert waits[:3] == [5_000, 10_000, 20_000]
    assert max(waits) == waits[-1] == 900_000
    assert waits == sorted(waits)


def test_key_retention_is_shortened_by_an_hour_or_half() -> None:
    def kept(ms: int | None) -> int | None:
        return safe_retention_ms(Capabilities(ms, duplicate_proves_delivery=True, lookup_lag_ms=30_000))

    assert kept(None) is None
    assert kept(24 * HOUR_MS) == 23 * HOUR_MS
    assert kept(HOUR_MS) == HOUR_MS // 2
    assert kept(2 * HOUR_MS) == HOUR_MS


def test_breaker_opens_after_consecutive_failures_and_retries_once() -> None:
    breaker = Breaker()
    for _ in range(OPEN_AFTER - 1):
        breaker.note(failed=True, now_ms=NOW)
    breaker.note(failed=False, now_ms=NOW)
    for _ in range(OPEN_AFTER):
        assert breaker.allows(NOW)
        breaker.note(failed=True, now_ms=NOW)
    assert not breaker.allows(NOW + OPEN_FOR_MS - 1)
    assert breaker.allows(NOW + OPEN_FOR_MS)


@cases(
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
def test_verdict_follows_balance_and_overrides(
    balance: int | None, overrides: Overrides, halted: bool, reason: str | None
) -> None:
    found = verdict(balance, 3, overrides, NOW)
    assert (found.is_halted, found.reason, found.max_concurrent) == (halted, reason, 3)


def test_override_of_sandbox_limit_applies_until_its_end() -> None:
    overrides = Overrides(max_concurrent=9, until_ms=NOW + 1)
    assert verdict(1, 3, overrides, NOW).max_concurrent == 9
    assert verdict(1, 3, overrides, NOW + 1).max_concurrent == 3


ASKED = LookedUpPush("queued", sent_qty=60, lookups=1, last_sent_ms=NOW, first_sent_ms=NOW, claimed=False)


@cases(
    ("found", "asked", "later_ms", "meaning"),
    [
        (FoundPush(60), ASKED, 60_000, "accepted"),
        (FoundPush(0), ASKED, 60_000, "rejected"),  # on record, and nothing charged
        (FoundPush(0), replace(ASKED, arrivals=2), 60_000, "in_doubt"),  # a later send may have charged without a trace
        (FoundPush(50), ASKED, 60_000, Adopt(50)),
        (Absent(), ASKED, 29_999, "queued"),  # the lag is not over: absence proves nothing yet
        (Absent(), ASKED, 30_000, "due"),  # the same bytes again
        (Absent(), replace(ASKED, claimed=True), 60_000, "queued"),  # sending again could only meet the claim
        (Absent(), replace(ASKED, state="in_doubt"), 60_000, "in_doubt"),  # in doubt is never sent again
        (Absent(), replace(ASKED, first_sent_ms=NOW - 23 * HOUR_MS), 60_000, "queued"),  # P2: the key may be forgotten
        (Absent(), replace(ASKED, claimed=True), HOUR_MS, Void),
        (Absent(), replace(ASKED, state="in_doubt"), HOUR_MS, Void),
        (CannotTell("who knows"), ASKED, 60_000, "in_doubt"),
        (ReadFailed("503"), ASKED, 60_000, "queued"),
        (ReadFailed("503"), replace(ASKED, state="in_doubt"), 60_000, "in_doubt"),
    ],
)
def test_lookup_result_maps_to_state_or_action(
    found: LookupResult, asked: LookedUpPush, later_ms: int, meaning: object
) -> None:
    end = after_lookup(found, asked, NOW + later_ms, CLAIMS)
    if isinstance(meaning, str):
        assert isinstance(end, Settlement) and end.state == meaning
        assert end.due_at_ms >= NOW + later_ms, "nothing is due in the past"
    else:
        assert end == meaning or type(end) is meaning


def test_absent_push_is_looked_up_until_void() -> None:
    now, asked, count = NOW + 30_000, replace(ASKED, claimed=True), 0
    while isinstance(end := after_lookup(Absent(), asked, now, CLAIMS), Settlement):
        assert end.due_at_ms > now
        now, asked, count = end.due_at_ms, replace(asked, lookups=asked.lookups + 1), count + 1
    assert isinstance(end, Void) and now == NOW + HOUR_MS and 5 < count < 20


def test_stale_push_of_lost_history_is_void_once_nothing_can_be_applied() -> None:
    """After a restore, a push was voided while the provider could still apply it, and the next seal billed it again."""
    asked = replace(ASKED, may_be_sent=True, stale=True)
    early = after_lookup(Absent(), asked, NOW + HOUR_MS - 1, CLAIMS)
    assert isinstance(early, Settlement) and (early.state, early.due_at_ms) == ("queued", NOW + HOUR_MS)
    assert isinstance(after_lookup(Absent(), asked, NOW + HOUR_MS, CLAIMS), Void)
    never_final = replace(CLAIMS, key_retention_ms=None, applied_within_ms=None)
    end = after_lookup(Absent(), asked, NOW + MAX_ABSENCE_MS, never_final)
    assert isinstance(end, Settlement) and end.state == "in_doubt", "its quantity has an obsolete carry"


LATER = NOW + MAX_ABSENCE_MS


@cases(
    ("asked", "now_ms", "state", "due_at_ms"),
    [
        (replace(ASKED, claimed=True), LATER - 1_000, "queued", LATER),
        (replace(ASKED, claimed=True), LATER, "in_doubt", LATER + DAY_MS),
        (replace(ASKED, claimed=True, state="in_doubt"), LATER + DAY_MS, "in_doubt", LATER + 2 * DAY_MS),
        (replace(ASKED, may_be_sent=True, first_sent_ms=NOW - DAY_MS), LATER, "in_doubt", LATER + DAY_MS),
        (replace(ASKED, may_be_sent=True, stale=True), LATER, "in_doubt", LATER + DAY_MS),
        (replace(ASKED, may_be_sent=True, stale=True, waits=True), LATER, "in_doubt", LATER + DAY_MS),
        (replace(ASKED, claimed=True, sent_qty=0), LATER, "carried", LATER),
        (ASKED, NOW + HOUR_MS, "due", NOW + HOUR_MS),  # P2: the key is still remembered
    ],
)
def test_push_of_never_final_absence_is_in_doubt_and_not_void(
    asked: LookedUpPush, now_ms: int, state: str, due_at_ms: int
) -> None:
    """OpenMeter's queue stopped for an hour, and Drawdown billed its pushes again under other keys."""
    end = after_lookup(Absent(), replace(asked, lookups=40), now_ms, replace(CLAIMS, applied_within_ms=None))
    assert isinstance(end, Settlement) and (end.state, end.due_at_ms) == (state, due_at_ms)
