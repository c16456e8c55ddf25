"""Who is to be asked about after pushes: pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from drawdown.providers.protocol import Accepted, Outcome, PushRequest, Rejected, ShownCredit, Unknown
from drawdown.providers.validated_provider import outcome
from drawdown.worker.push.claim import Claimed
from drawdown.worker.verdict.answers import ClaimAnswers
from drawdown.worker.verdict.rules import TURN_MS, WINDOWS_A_TURN, KnownState, Remaining, ask_at_ms, turn_ms
from tests.cases import cases

NOW = 1_767_225_600_000
FAR = Remaining(10**9, 10**6, whole=True)
READ = KnownState("acme", is_halted=False, read_ms=NOW - 1, unread=False, balance_micro=10**9)

moments = st.integers(NOW - 10 * TURN_MS, NOW)
micro = st.integers(-(10**15), 10**15)
amounts = st.integers(0, 10**12)
remainings = st.none() | st.builds(Remaining, st.none() | micro, micro, st.booleans())
orgs = st.builds(
    KnownState,
    st.text(max_size=8),
    st.booleans(),
    st.none() | moments,
    st.booleans(),
    st.none() | micro,
    amounts,
    amounts,
    st.none() | amounts,
    st.none() | st.integers(NOW - TURN_MS, NOW + 3 * TURN_MS),
)


@given(st.text(max_size=12), moments)
def test_balance_read_turn_of_org_recurs_hourly(org: str, after: int) -> None:
    first = turn_ms(org, after)
    assert after < first <= after + TURN_MS
    assert turn_ms(org, first) == first + TURN_MS
    assert turn_ms(org, first - 1) == first


def test_balance_read_turns_are_spread_evenly() -> None:
    a_tick = Counter(turn_ms(f"org-{number}", NOW) * WINDOWS_A_TURN // TURN_MS for number in range(12_000))
    assert max(a_tick.values()) < 1_200  # of 1,000 on average


@given(orgs, remainings)
def test_balance_read_is_due_within_an_hour(known: KnownState, remaining: Remaining | None) -> None:
    at_ms = ask_at_ms(known, remaining, NOW)
    assert NOW <= at_ms <= NOW + TURN_MS
    assert at_ms == NOW or (known.read_ms is not None and at_ms <= known.read_ms + TURN_MS)


@given(orgs, remainings)
def test_halted_unread_or_spent_org_is_read_at_once(known: KnownState, remaining: Remaining | None) -> None:
    spent = remaining is not None and remaining.left_micro is not None and remaining.left_micro <= known.held_micro
    assume(known.is_halted or known.unread or known.read_ms is None or spent)
    assert ask_at_ms(known, remaining, NOW) == NOW


@given(orgs, st.integers(0, 10**15), amounts)
def test_org_with_credit_ending_before_next_turn_is_read_at_once(known: KnownState, charged: int, more: int) -> None:
    left = charged * WINDOWS_A_TURN - more
    assert ask_at_ms(known, Remaining(left, charged, whole=False), NOW) == NOW


@given(orgs, micro, amounts, amounts)
def test_balance_read_with_less_credit_is_not_later(known: KnownState, left: int, charged: int, less: int) -> None:
    there = Remaining(left, charged, whole=False)
    assert ask_at_ms(known, replace(there, left_micro=left - less), NOW) <= ask_at_ms(known, there, NOW)


@cases(
    ("known", "remaining", "at_once"),
    [
        (READ, FAR, False),
        (replace(READ, read_ms=NOW - TURN_MS), FAR, True),  # its turn was missed
        (replace(READ, balance_micro=10**9 - 1), FAR, True),  # somebody paid
        (replace(READ, balance_micro=1), replace(FAR, whole=False), True),  # a limit that no answer shows left less
        (READ, replace(FAR, left_micro=2 * 10**9, whole=False, largest_micro=10**9), False),  # two balances
        (READ, replace(FAR, left_micro=2 * 10**9, whole=False, largest_micro=10**9 + 1), True),
        (replace(READ, balance_micro=None), replace(FAR, whole=False), False),  # another one is unlimited
        (replace(READ, balance_micro=None), FAR, True),  # it has an end now
        (READ, replace(FAR, left_micro=None), True),  # it has none any more
        (replace(READ, balance_micro=None), replace(FAR, left_micro=None), False),
        (replace(READ, held_micro=10**9 - 10), FAR, True),
        (replace(READ, unconfirmed_micro=10**9 - 10), FAR, True),
        (replace(READ, low_micro=10**9), FAR, True),
        (replace(READ, low_micro=10**9 - 1), FAR, False),
        (READ, None, True),  # nobody can tell how far it is
        (replace(READ, balance_micro=None), None, False),
        (replace(READ, runs_out_ms=NOW + TURN_MS), None, True),
        (replace(READ, runs_out_ms=NOW + TURN_MS + 1), None, False),
    ],
)
def test_balance_read_conditions_decide_if_due_at_once(
    known: KnownState, remaining: Remaining | None, at_once: bool
) -> None:
    assert (ask_at_ms(known, remaining, NOW) == NOW) is at_once


def claimed(org: str, number: int) -> Claimed:
    return Claimed(0, org, f"f{number}", 0, PushRequest(f"{org}:{number}", org, f"f{number}", 1, 0, 1))


def answered(*outcomes: Outcome) -> Remaining | None:
    batch = [claimed("acme", number) for number in range(len(outcomes))]
    (found,) = ClaimAnswers(batch).take(batch, outcomes)
    assert found.all_answered
    return found.remaining()


def test_shown_credit_of_accepted_pushes_is_combined_in_any_order() -> None:
    """In whichever order they come: a charge only takes."""
    assert answered(Accepted(ShownCredit(7, 1)), Accepted(ShownCredit(5, 2))) == Remaining(5, 3, whole=True)
    assert answered(
        Accepted(ShownCredit(7, 1, "a")), Accepted(ShownCredit(5, 2, "b")), Accepted(ShownCredit(9, 1, "a"))
    ) == Remaining(12, 4, whole=False, largest_micro=7)
    assert answered(Accepted(ShownCredit(7, 1, "a"))) == Remaining(7, 1, whole=False, largest_micro=7)
    assert answered(Accepted(ShownCredit(7, 1)), Accepted(ShownCredit(None, 2))) == Remaining(None, 3, whole=True)
    assert answered(Accepted(ShownCredit(7, 1)), Accepted()) is None
    assert answered(Accepted(ShownCredit(7, 1)), Unknown("timed out")) is None


def test_claim_answers_are_complete_after_last_answer() -> None:
    batch = [claimed("acme", 0), claimed("globex", 0), claimed("acme", 1)]
    answers = ClaimAnswers(batch)
    acme, globex = answers.take(batch[:2], [Accepted(ShownCredit(7, 1)), Rejected("no")])
    assert (acme.all_answered, globex.all_answered, globex.all_charged) == (False, True, False)
    (acme,) = answers.take(batch[2:], [Accepted(ShownCredit(6, 1))])
    assert (acme.all_answered, acme.remaining()) == (True, Remaining(6, 2, whole=True))


@cases("left", [ShownCredit(10**19, 1), ShownCredit(1, 10**19), ShownCredit(1.5, 1), ShownCredit(1, 1, 7)])  # type: ignore[arg-type]
def test_shown_credit_out_of_range_is_dropped(left: ShownCredit) -> None:
    found = outcome(Accepted(left))
    assert isinstance(found, Accepted) and found.shown_credit is None
