"""Thousands of top-ups against a service that fails a third of all calls in every way, with kills between any two
steps: its own books say that nobody was charged twice, and that what was paid, and nothing else, was credited, once.

`DRAWDOWN_TEST_WHOLE=1` lives 100,000 episodes. Bugs that are planted turn it red.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from drawdown.ledger import wallet
from drawdown.providers.payments.protocol import ChargeResult, Declined, InDoubt, Payment
from drawdown.worker.topup import fill, outcome
from drawdown.worker.topup.outcome import End
from tests.fake_payments import CHARGE_FAULTS, LOOK_UP_FAULTS
from tests.integration.topup_lives import lived
from tests.whole import share

EPISODES = share(250, whole=500)
LIVES = share(1, whole=200)
FEW = 250


@pytest.mark.parametrize("seed", range(LIVES))
def test_topup_under_faults_and_kills_charges_and_credits_once(seed: int) -> None:
    life = lived(EPISODES, seed)
    assert life.breaches == []
    assert life.episodes >= EPISODES and life.hand.deaths > EPISODES / 10
    assert set(life.purses.pay.struck) == {*CHARGE_FAULTS, *LOOK_UP_FAULTS}
    states = {state for _, state in life.purses.topups()}
    assert states == {"credited", "declined", "needs_customer", "given_up"}
    assert len(life.purses.pay.taken) > EPISODES / 2


def test_topup_with_forgotten_ids_is_settled_by_lookup() -> None:
    """But for calls that are worked on late, which nobody could tell from lost ones."""
    assert (
        lived(FEW, 100, keeps_ms=0, faults=("not_sent", "request_lost", "answer_lost", "seen_late", "raised")).breaches
        == []
    )


# Bugs that are planted.


def piece(patch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """Another piece in the room's statements, for one test."""
    patch.setitem(fill.SQL.pieces, (name, ""), text)
    patch.setattr(fill.SQL, "_ready", {})


def answers(patch: pytest.MonkeyPatch, change: Callable[[ChargeResult], ChargeResult]) -> None:
    """What a charge is answered is taken for something else."""
    real = fill.end_of_charge
    monkey: Any = lambda found, result, now_ms: real(found, change(result), now_ms)  # noqa: E731
    patch.setattr("drawdown.worker.topup.fill.end_of_charge", monkey)


def an_id_that_differs_at_each_call(patch: pytest.MonkeyPatch) -> None:
    real = fill._topup

    def planted(row: Any, *more: Any) -> fill.Topup:
        made = real(row, *more)
        return replace(made, charge=replace(made.charge, charge_id=f"{made.charge.charge_id}:{row.attempts}"))

    patch.setattr(fill, "_topup", planted)


def a_doubt_that_is_charged_again_blind(patch: pytest.MonkeyPatch) -> None:
    real = outcome.of_answer

    def planted(result: ChargeResult, *more: Any) -> End | None:
        end = real(result, *more)
        return replace(end, state="due") if end is not None and isinstance(result, InDoubt) else end

    patch.setattr(fill, "of_answer", planted)
    piece(patch, "is_proven", "1 = 1")


def calls_that_nobody_counts(patch: pytest.MonkeyPatch) -> None:
    """What was called and never answered counts as never called."""
    piece(
        patch, "claim_lookups", fill.SQL.pieces["claim_lookups", ""].replace("state = 'in_doubt'", "state = 'due'", 1)
    )
    piece(patch, "may_have_arrived", "1 = 0")


def a_doubt_that_is_a_decline(patch: pytest.MonkeyPatch) -> None:
    answers(patch, lambda result: Declined("x", "no answer", True) if isinstance(result, InDoubt) else result)


def a_doubt_that_is_paid(patch: pytest.MonkeyPatch) -> None:
    real = fill.end_of_charge

    def planted(found: fill.Topup, result: ChargeResult, now_ms: int) -> End:
        paid = Payment(f"pay_x:{found.charge.charge_id}", found.charge.amount, found.charge.currency)
        return real(found, paid if isinstance(result, InDoubt) else result, now_ms)

    patch.setattr("drawdown.worker.topup.fill.end_of_charge", planted)


def not_sent_that_speaks_of_earlier_calls(patch: pytest.MonkeyPatch) -> None:
    real = fill._topup
    patch.setattr(fill, "_topup", lambda *given: replace(real(*given), arrived_before=False))
    piece(patch, "may_have_arrived", "x.outcome IS NULL")


def paid_and_credited_apart(patch: pytest.MonkeyPatch) -> None:
    """A process dies between the two, now and then."""
    real, rng = fill.credit, random.Random(1)
    patch.setattr(fill, "credit", lambda *given: real(*given) if rng.random() < 0.98 else None)


def a_grant_with_a_key_of_its_own(patch: pytest.MonkeyPatch) -> None:
    """And an answer that is written down by whoever brings it, however often."""
    real, rng = wallet.grant, random.Random(1)
    patch.setattr(wallet, "grant", lambda *given, key, **more: real(*given, key=f"{key}:{rng.random()}", **more))


def absence_that_is_believed_at_once(patch: pytest.MonkeyPatch) -> None:
    real = outcome.of_not_found
    patch.setattr(
        fill, "of_not_found", lambda calls, loss, *more, **most: real(outcome.Calls(None, None), None, *more, **most)
    )


def a_charge_given_up_while_it_may_be_applied(patch: pytest.MonkeyPatch) -> None:
    real = outcome.of_not_found

    def planted(calls: outcome.Calls, loss: Any, asked_ms: int, now_ms: int, can: Any, **more: Any) -> End:
        return real(calls, loss, asked_ms, now_ms, replace(can, applied_within_ms=can.lookup_lag_ms), **more)

    patch.setattr(fill, "of_not_found", planted)
    piece(patch, "if_not_credited", "state IN {open}")


def caps_that_count_what_was_paid(patch: pytest.MonkeyPatch) -> None:
    piece(patch, "begun", fill.SQL.pieces["begun", ""] + " AND p.state = 'credited'")


def a_dying_card_that_is_charged_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fill, "MOST_DECLINES", 10**9)


def a_stolen_card_that_is_charged_again(patch: pytest.MonkeyPatch) -> None:
    real = outcome.of_answer

    def planted(*given: Any) -> End | None:
        end = real(*given)
        return end if end is None else replace(end, blocks=None)

    patch.setattr(fill, "of_answer", planted)


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, dict[str, Any]]] = {
    one.__name__: (one, text, more)
    for one, text, more in (
        (an_id_that_differs_at_each_call, "was paid, and not credited", {}),
        (a_doubt_that_is_charged_again_blind, "was charged twice", {"keeps_ms": 0}),
        (calls_that_nobody_counts, "was charged twice", {"keeps_ms": 0}),
        (a_doubt_that_is_a_decline, "was paid, and not credited", {}),
        (a_doubt_that_is_paid, "was credited, and not paid", {}),
        (not_sent_that_speaks_of_earlier_calls, "", {"keeps_ms": 0}),
        (paid_and_credited_apart, "was paid, and not credited", {}),
        (a_grant_with_a_key_of_its_own, "invariant=12", {}),
        (absence_that_is_believed_at_once, "was charged twice", {"keeps_ms": 0}),
        (a_charge_given_up_while_it_may_be_applied, "", {}),
        (a_dying_card_that_is_charged_on, "was charged after 3 declines", {"arms": 0.0}),
        (a_stolen_card_that_is_charged_again, "was charged after 1 declines", {}),
        (caps_that_count_what_was_paid, "its terms allowed", {"max_day": 2}),
    )
}


@pytest.mark.parametrize("name", share(["a_doubt_that_is_charged_again_blind"], whole=PLANTED))
def test_planted_bug_in_topups_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, text, more = PLANTED[name]
    plant(monkeypatch)
    seen: list[str] = []
    for seed in range(200, 203):
        seen += lived(FEW, seed, heals=False, **more).breaches
        if any(text in line for line in seen):
            break
    assert any(text in line for line in seen) and seen, seen[:5]
