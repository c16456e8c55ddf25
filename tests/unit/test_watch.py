"""What an estimate means, and when to look again: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drawdown.providers.protocol import CustomerState, ReadFailed
from drawdown.providers.validated_provider import sound
from drawdown.worker.verdict.effective_balance import Used, effective_after, since_read, unseen
from drawdown.worker.verdict.rules import (
    FIRST_LOOK_MS,
    LAST_LOOK_MS,
    UNREAD_STOP_MS,
    Estimate,
    Overrides,
    Refused,
    Verdict,
    next_look_ms,
    unread_verdict,
    verdict,
)
from tests.cases import cases

NOW = 1_767_225_600_000
RUNS, HALTED = Verdict(False, None, 3), Verdict(True, "estimate", 3)


@dataclass
class Org:
    """A row, as far as estimates go."""

    balance_micro: int | None = None
    unconfirmed_micro: int | None = None
    balance_read_ms: int | None = NOW
    is_halted: bool = False


@cases(
    ("estimate", "balance", "reason"),
    [
        (Estimate(1), 100, None),
        (Estimate(0), 100, "estimate"),
        (Estimate(-5), 100, "estimate"),
        (Estimate(-5), 0, "credits_exhausted"),
        (Estimate(-5), None, None),  # no end to it
        (Estimate(-5, may_halt=False), 100, None),  # nobody watches
        (Estimate(20, resume_above_micro=20), 100, None),  # runs: the margin is for who is halted
        (Estimate(20, resume_above_micro=20, halted=True), 100, "estimate"),
        (Estimate(21, resume_above_micro=20, halted=True), 100, None),
        (Estimate(-1, halted=True, may_halt=False), 100, "estimate"),  # a resumption always needs more than nothing
    ],
)
def test_verdict_after_fresh_read_with_estimate_follows_effective_balance(
    estimate: Estimate, balance: int | None, reason: str | None
) -> None:
    found = verdict(balance, 3, Overrides(), NOW, estimate)
    assert (found.is_halted, found.reason) == (reason is not None, reason)


def test_operator_wins_over_estimate_until_override_ends() -> None:
    gone = Estimate(-5)
    never = Overrides(halted=False, until_ms=NOW + 1)
    assert not verdict(100, 3, never, NOW, gone).is_halted
    assert verdict(100, 3, never, NOW + 1, gone).reason == "estimate"
    assert verdict(100, 3, Overrides(operator_halt=True), NOW, Estimate(9)).reason == "operator"


@cases(
    ("policy", "unread_ms", "effective", "reason"),
    [
        ("go_on", 10 * UNREAD_STOP_MS, -5, None),
        ("estimate", 0, -5, "estimate"),
        ("estimate", 0, 0, "estimate"),
        ("estimate", 10 * UNREAD_STOP_MS, 1, None),
        ("estimate", 10 * UNREAD_STOP_MS, None, None),  # never read: that is not zero
        ("stop", UNREAD_STOP_MS - 1, 1, None),
        ("stop", UNREAD_STOP_MS, 1, "unreadable"),
    ],
)
def test_verdict_during_unreadable_provider_follows_policy_of_plan(
    policy: str, unread_ms: int, effective: int | None, reason: str | None
) -> None:
    found = unread_verdict(RUNS, Overrides(), NOW, policy=policy, unread_ms=unread_ms, effective_micro=effective)
    assert (found.is_halted, found.reason, found.max_concurrent) == (reason is not None, reason, 3)


def test_unread_halted_org_is_resumed_only_by_operator() -> None:
    told: dict[str, Any] = {"policy": "go_on", "unread_ms": 0, "effective_micro": 10**9}
    assert unread_verdict(HALTED, Overrides(), NOW, **told) == HALTED
    assert not unread_verdict(HALTED, Overrides(halted=False), NOW, **told).is_halted
    assert unread_verdict(RUNS, Overrides(operator_halt=True), NOW, **told).reason == "operator"


def test_unconfirmed_push_is_deducted_until_balance_shows_charge() -> None:
    on_its_way = Used(sent_since=10, maybe=10)
    assert unseen(100, 0, 100, on_its_way) == 10
    assert unseen(100, 0, 90, on_its_way) == 0
    assert unseen(100, 0, 95, on_its_way) == 5
    assert unseen(100, 10, 90, Used(maybe=10)) == 0  # sent before the last read, seen since
    assert unseen(100, 10, 100, Used(maybe=0)) == 0  # too long ago not to be seen
    assert unseen(None, None, 100, Used(maybe=10)) == 10  # the first read: it may all be missing
    assert unseen(100, None, 100, Used(sent_since=10, maybe=10)) == 10


def test_topup_hides_at_most_pushes_in_flight() -> None:
    assert unseen(100, 0, 1_090, Used(sent_since=10, maybe=10)) == 10
    assert unseen(100, 0, 1_090, Used(sent_since=10, maybe=0)) == 0


def test_effective_balance_excludes_usage_missing_in_balance() -> None:
    used = Used(unsealed=5, unsampled=2, unsent=20, sent_since=10, maybe=10)
    found, hidden = effective_after(Org(100, 0), 100, used)
    assert (found.value, found.unaccepted, found.unsealed, hidden) == (63, 30, 7, 10)
    by_the_last = since_read(Org(100, 4), used)
    assert by_the_last is not None
    assert by_the_last.value == 100 - (4 + 10 + 20) - 7
    assert effective_after(Org(100, 0, is_halted=True), 100, used)[0].unsealed == 5  # nothing of it runs any more


def test_balance_rise_explained_by_pushes_does_not_resume_org() -> None:
    """A read may be older than the one before it, or somebody paid: both show a balance that rose by 10."""
    used = Used(maybe=10)
    assert effective_after(Org(0, 0, is_halted=True), 10, used)[0].value == 0
    assert effective_after(Org(0, 0, is_halted=True), 15, used)[0].value == 5, "more than the pushes: somebody paid"
    assert effective_after(Org(0, 0, is_halted=True), 10, Used())[0].value == 10, "no push was lately"
    assert effective_after(Org(0, 0, is_halted=True), 15, used, paid=True)[0].value == 15
    assert effective_after(Org(1, 0), 11, used)[0].value == 11, "who runs goes on"
    assert effective_after(Org(1, 4), 11, used)[0].value == 7, "what was hidden before stays hidden"


def test_execution_charges_do_not_hide_push_in_flight() -> None:
    """The wallet fell from 100 to 60 by runs: that is no sign that the push of 40 arrived."""
    sent = Used(unsealed=5, sent_since=40, maybe=40, in_flight=40, wallet=60, held_micro=3)
    found = since_read(Org(100, 0), sent)
    assert found is not None and found.value == 60 - 40 - 5 - 3
    assert effective_after(Org(100, 0), 60, sent)[1] == 0, "the ledger charges before it says so: it may have arrived"
    sent.mirrors = True
    found, hidden = effective_after(Org(100, 0), 60, sent)
    assert (found.value, hidden) == (60 - 40 - 5 - 3, 40)


def test_estimate_of_unread_or_unlimited_balance_is_empty() -> None:
    assert since_read(Org(None, None), Used(unsealed=5)) is None
    assert since_read(Org(100, 0, balance_read_ms=None), Used(unsealed=5)) is None


def test_org_near_end_of_credit_is_watched_often_and_idle_org_is_not() -> None:
    def look(effective: int | None, burn: int) -> int | None:
        found = next_look_ms(effective, burn, NOW)
        return None if found is None else found - NOW

    assert look(10, 60) == FIRST_LOOK_MS
    assert look(-10, 60) == FIRST_LOOK_MS
    assert look(60, 60) == 15_000
    assert look(10**12, 60) == LAST_LOOK_MS
    assert look(None, 60) == LAST_LOOK_MS
    assert look(10, 0) is None


@cases("lasts_ms", [1, 4_999, 5_001, 15_625, 21_000, 59_000, 300_000, 7_200_000])
def test_last_watch_before_end_is_at_most_five_seconds_earlier(lasts_ms: int) -> None:
    burn, now = 60_000, NOW
    ends = now + lasts_ms
    while True:
        following = next_look_ms(ends - now, burn, now)
        assert following is not None and now < following
        if following >= ends:
            break
        now = following
    assert ends - now <= FIRST_LOOK_MS


@cases(
    ("refused", "balance", "reason"),
    [
        (Refused(), 100, None),
        (Refused(frozenset("ab"), frozenset("b")), 100, "usage_limit"),
        (Refused(frozenset("ab"), frozenset("b")), None, "usage_limit"),
        (Refused(frozenset("ab"), frozenset("c")), 100, None),
        (Refused(frozenset("ab"), frozenset(), halted=True), 100, "usage_limit"),
        (Refused(frozenset(), frozenset("b"), halted=True), 100, None),
        (Refused(frozenset("ab"), frozenset("b")), 0, "credits_exhausted"),
    ],
)
def test_refused_feature_in_use_halts_with_usage_limit(
    refused: Refused, balance: int | None, reason: str | None
) -> None:
    found = verdict(balance, 3, Overrides(), NOW, refused=refused)
    assert (found.is_halted, found.reason) == (reason is not None, reason)
    assert not verdict(balance, 3, Overrides(halted=False), NOW, refused=refused).is_halted


@cases(
    "state",
    [
        CustomerState("12", "free", 3),  # type: ignore[arg-type]
        CustomerState(True, "free", 3),
        CustomerState(1.5, "free", 3),  # type: ignore[arg-type]
        CustomerState(float("nan"), "free", 3),  # type: ignore[arg-type]
        CustomerState(10**19, "free", 3),
        CustomerState(1, "free", -1),
        CustomerState(1, "free", "many"),  # type: ignore[arg-type]
        CustomerState(1, 7, 3),  # type: ignore[arg-type]
    ],
)
def test_invalid_customer_state_is_read_failed(state: CustomerState) -> None:
    assert isinstance(sound(state), ReadFailed)


@cases("state", [CustomerState(None, None, None), CustomerState(-5, "free", 0)])
def test_unlimited_and_negative_balances_are_valid(state: CustomerState) -> None:
    assert sound(state) == state
